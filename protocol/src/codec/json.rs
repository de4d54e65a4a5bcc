//! placeholder
use super::DecodeError;
use crate::frame::{ClientFrame, Message, ServerFrame};
/// x
pub fn encode_client(_frame: &ClientFrame, _out: &mut Vec<u8>) { todo!() }
/// x
pub fn encode_server(_frame: &ServerFrame, _out: &mut Vec<u8>) { todo!() }
/// x
pub fn encode_message(_message: &Message, _out: &mut Vec<u8>) { todo!() }
/// x
pub fn tag_message(_out: &mut Vec<u8>, _sub: u64) { todo!() }
/// x
pub fn decode_client(_bytes: &[u8]) -> Result<ClientFrame, DecodeError> { todo!() }
/// x
pub fn decode_server(_bytes: &[u8]) -> Result<ServerFrame, DecodeError> { todo!() }
