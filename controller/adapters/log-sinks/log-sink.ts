/** Which sink the settings ask for. */
import type { LogSink } from '#controller/ports/log-sink.ts';
import type { SinkSettings } from './http.ts';
import { createLokiSink } from './loki.ts';
import { createOtlpSink } from './otlp.ts';

export function createLogSink({ kind, ...settings }: SinkSettings & { readonly kind: 'loki' | 'otlp' }): LogSink {
  return kind === 'loki' ? createLokiSink(settings) : createOtlpSink(settings);
}
