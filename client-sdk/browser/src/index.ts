/**
 * `@tidegate/client`: live messages in a browser, all of them, or a notice of what is missing.
 *
 * ```js
 * import { Client } from '@tidegate/client';
 *
 * const client = new Client('ws://127.0.0.1:7400/ws');
 * client.subscribe('chat.>', {}, (message) => console.log(message.topic, message.data));
 * await client.publish('chat.room1', { text: 'hi' });
 * ```
 */

export { Client } from './client.js';
export type { ClientEvents, ClientOptions, Token } from './client.js';
export type { Codec } from './codec.js';
export { TidegateError } from './error.js';
export type { From, GapReason, Headers, Kind, Overflow, Position, Report } from './frame.js';
export type {
  GapItem,
  HistoryPage,
  Item,
  MessageItem,
  PublishAck,
  PublishOptions,
  ResetItem,
  ResumedItem,
  SubscribeOptions,
  Terms,
} from './item.js';
export type { State } from './session.js';
export type { SubscriptionState } from './session/subscriber.js';
export type { ItemIterator, Subscription, SubscriptionEvents } from './subscription.js';
export type { Handlers, Link, Transport } from './transport.js';
