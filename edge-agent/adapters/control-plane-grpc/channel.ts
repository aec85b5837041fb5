/**
 * Options and names of the agent's channels. The certificate of the control plane carries one fixed
 * name, so that any address reaches it: the name is checked, the address is not.
 */
import type { ChannelOptions } from '@grpc/grpc-js';

/** DNS name in the control plane's certificate. */
export const serverName = 'nkudo-controller';

const messageBytesMax = 4 * 2 ** 20;

/**
 * Keepalive finds a dead peer within 30 s; retries are the link's own business, since grpc-js keeps
 * what a long stream sent for a retry; no shared subchannels, since each session brings its own certificate.
 */
export const channelOptions: ChannelOptions = {
  'grpc.ssl_target_name_override': serverName,
  'grpc.default_authority': serverName,
  'grpc.keepalive_time_ms': 20_000,
  'grpc.keepalive_timeout_ms': 10_000,
  'grpc.keepalive_permit_without_calls': 1,
  'grpc.enable_retries': 0,
  'grpc.use_local_subchannel_pool': 1,
  'grpc.max_receive_message_length': messageBytesMax,
  'grpc.max_send_message_length': messageBytesMax,
  // The link reconnects by itself; the channel must not sleep on an earlier failure.
  'grpc.initial_reconnect_backoff_ms': 200,
  'grpc.max_reconnect_backoff_ms': 1_000,
};
