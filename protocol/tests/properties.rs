//! What holds for every frame and every input. A failing case is printed by proptest, with the seed that repeats it.

mod frames;

use proptest::{collection::vec, prelude::*};
use tidegate_protocol::{ClientFrame, Codec, Payload, ServerFrame, fuzz};

use frames::{client_frame, json_text, message, payload, server_frame};

fn encode_client(codec: Codec, frame: &ClientFrame) -> Vec<u8> {
    let mut bytes = Vec::new();
    codec.encode_client(frame, &mut bytes);
    bytes
}

fn encode_server(codec: Codec, frame: &ServerFrame) -> Vec<u8> {
    let mut bytes = Vec::new();
    codec.encode_server(frame, &mut bytes);
    bytes
}

/// Every way these bytes can be read.
fn read_every_way(bytes: &[u8]) {
    fuzz::client_frames(bytes);
    fuzz::server_frames(bytes);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_024))]

    #[test]
    fn a_client_frame_reads_back_the_same_in_both_codecs(frame in client_frame()) {
        for codec in Codec::ALL {
            let bytes = encode_client(codec, &frame);
            prop_assert_eq!(codec.decode_client(&bytes).collect::<Vec<_>>(), [Ok(frame.clone())]);
        }
    }

    #[test]
    fn a_server_frame_reads_back_the_same_in_both_codecs(frame in server_frame()) {
        for codec in Codec::ALL {
            let bytes = encode_server(codec, &frame);
            prop_assert_eq!(codec.decode_server(&bytes).collect::<Vec<_>>(), [Ok(frame.clone())]);
        }
    }

    #[test]
    fn frames_one_after_the_other_are_read_one_by_one(frames in vec(server_frame(), 1..5)) {
        for codec in Codec::ALL {
            let parts: Vec<Vec<u8>> = frames.iter().map(|frame| encode_server(codec, frame)).collect();
            let read: Vec<_> = codec.decode_server(&parts.join(codec.separator())).collect::<Result<_, _>>().unwrap();
            prop_assert_eq!(&read, &frames);
        }
    }

    #[test]
    fn a_message_is_the_same_bytes_by_either_way_and_tagged_afterwards_or_before(
        message in message(), sub in frames::integer()
    ) {
        for codec in Codec::ALL {
            let mut untagged = Vec::new();
            codec.encode_message(&message, &mut untagged);
            prop_assert_eq!(&untagged, &encode_server(codec, &ServerFrame::Message(message.clone())));

            codec.tag_message(&mut untagged, sub);
            let tagged = ServerFrame::Message(tidegate_protocol::Message { sub: Some(sub), ..message.clone() });
            prop_assert_eq!(&untagged, &encode_server(codec, &tagged));
        }
    }

    #[test]
    fn no_payload_ends_a_frame_or_forges_one(data in any::<Vec<u8>>(), text in ".*", json in json_text(), pick in 0..3) {
        let payload = match pick {
            0 => Payload::binary(data),
            1 => Payload::text(text),
            _ => Payload::json(json.as_bytes()).unwrap(),
        };
        let publish = ClientFrame::Publish(tidegate_protocol::frame::Publish {
            id: Some(1),
            topic: "a".parse().unwrap(),
            payload: payload.clone(),
            key: None,
            headers: Vec::new(),
            idempotency: None,
            report: false,
        });
        for codec in Codec::ALL {
            let bytes = encode_client(codec, &publish);
            prop_assert_eq!(codec.decode_client(&bytes).collect::<Vec<_>>(), [Ok(publish.clone())]);
            // A reader that takes lines for frames must not be led astray either.
            if codec == Codec::Json {
                prop_assert!(!bytes.iter().any(|b| matches!(b, b'\n' | b'\r')));
            }
        }
    }

    #[test]
    fn a_json_payload_is_taken_where_another_parser_takes_it(
        json in json_text(), at in any::<prop::sample::Index>(), byte in prop::sample::select(b" \n\0\x1f\"\\,:[]{}-+.eEtu019a\x7f\xc3\xff".to_vec()),
    ) {
        let mut data = json.into_bytes();
        let at = at.index(data.len());
        data[at] = byte;
        fuzz::json_payload(&data);
    }

    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in any::<Vec<u8>>(), text in "[\\[\\]{}\",:0-9a-z*>$. \n-]{0,40}") {
        for bytes in [&bytes, text.as_bytes()] {
            read_every_way(bytes);
            fuzz::json_payload(bytes);
            fuzz::topics(bytes);
        }
    }

    #[test]
    fn a_mutated_frame_is_read_without_a_panic(
        client in client_frame(), server in server_frame(), at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<bool>()
    ) {
        for codec in Codec::ALL {
            for mut bytes in [encode_client(codec, &client), encode_server(codec, &server)] {
                let at = at.index(bytes.len());
                bytes[at] = byte;
                if cut {
                    bytes.truncate(at + 1);
                }
                read_every_way(&bytes);
            }
        }
    }

    #[test]
    fn a_bad_value_costs_its_frame_and_not_the_next(payload in payload(), id in frames::integer()) {
        // The same length as a topic that is valid, so that only the value is bad.
        let good = ClientFrame::Publish(tidegate_protocol::frame::Publish {
            id: Some(id),
            topic: "aa".parse().unwrap(),
            payload,
            key: None,
            headers: Vec::new(),
            idempotency: None,
            report: false,
        });
        for codec in Codec::ALL {
            let good_bytes = encode_client(codec, &good);
            let mut bad_bytes = good_bytes.clone();
            let topic = bad_bytes.windows(2).position(|w| w == b"aa").unwrap();
            bad_bytes[topic] = b'.';
            let bytes = [&bad_bytes[..], &good_bytes].join(codec.separator());
            let read: Vec<_> = codec.decode_client(&bytes).collect();
            prop_assert_eq!(read.len(), 2);
            let error = read[0].clone().unwrap_err();
            prop_assert_eq!((error.id, error.code.number(), error.fatal), (Some(id), 1200, false));
            prop_assert_eq!(read[1].as_ref(), Ok(&good));
        }
    }
}
