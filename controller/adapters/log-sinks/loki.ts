/**
 * Grafana Loki as a sink: the push API with JSON. Few labels, since each combination of their values is a stream there; what
 * names a single line is structured metadata. Times: milliseconds of the receipt, and the offset within them, so that a line
 * that is delivered twice is the same entry.
 * Source: https://grafana.com/docs/loki/latest/reference/loki-http-api/#ingest-logs
 */
import type { LogLine, LogSink } from '#controller/ports/log-sink.ts';
import { createPost, type SinkSettings } from './http.ts';

const offsetRange = 1_000_000;

export function createLokiSink(settings: SinkSettings): LogSink {
  const post = createPost(settings);
  return {
    name: 'loki',
    deliver: (lines) => post(JSON.stringify({ streams: toStreams(lines) }), 'application/json'),
    close: () => Promise.resolve(),
  };
}

interface LokiStream {
  readonly stream: Readonly<Record<string, string>>;
  readonly values: [string, string, Record<string, string>][];
}

function toStreams(lines: readonly LogLine[]): readonly LokiStream[] {
  const streams = new Map<string, LokiStream>();
  for (const line of lines) {
    const labels = { service_name: 'nkudo', namespace: line.namespace, site: line.siteName, microvm: line.microvmName, source: line.source };
    const key = JSON.stringify(labels);
    const stream: LokiStream = streams.get(key) ?? { stream: labels, values: [] };
    streams.set(key, stream);
    const nanoseconds = BigInt(line.receivedAtMs) * 1_000_000n + BigInt(line.offset % offsetRange);
    stream.values.push([
      String(nanoseconds),
      line.text,
      { microvm_uid: line.microvmId, incarnation: String(line.incarnation), offset: String(line.offset), ...(line.gapBytes > 0 ? { gap_bytes: String(line.gapBytes) } : {}) },
    ]);
  }
  return [...streams.values()];
}
