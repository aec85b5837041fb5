/**
 * OTLP over HTTP with protobuf, through the exporter of the OpenTelemetry project: it owns the encoding, the deadline and a
 * few tries of its own. Whatever it could not deliver comes again.
 */
import { OTLPLogExporter } from '@opentelemetry/exporter-logs-otlp-proto';
import { resourceFromAttributes } from '@opentelemetry/resources';
import type { ReadableLogRecord } from '@opentelemetry/sdk-logs';
import { AppError } from '#api/model/error-codes.ts';
import type { LogLine, LogSink } from '#controller/ports/log-sink.ts';
import { credentialsOf, deliveryTimeoutMs, refusal, type SinkSettings } from './http.ts';

const resource = resourceFromAttributes({ 'service.name': 'nkudo' });
/** One object: the exporter groups by its identity. */
const instrumentationScope = { name: 'nkudo.logs' };

export function createOtlpSink(settings: SinkSettings): LogSink {
  const exporter = new OTLPLogExporter({ url: settings.url, timeoutMillis: deliveryTimeoutMs, headers: () => credentialsOf(settings) });
  return {
    name: 'otlp',
    deliver: (lines) =>
      new Promise((resolve, reject) => {
        exporter.export(lines.map(toRecord), ({ code, error }) => {
          if (code === 0) return resolve();
          const status = error !== undefined && 'code' in error ? Number(error.code) : Number.NaN;
          // Failures of the network have names for codes.
          reject(Number.isInteger(status) ? refusal(status) : new AppError('UNAVAILABLE', 'the log sink does not take the lines'));
        });
      }),
    close: () => exporter.shutdown(),
  };
}

function toRecord(line: LogLine): ReadableLogRecord {
  const time: [number, number] = [Math.floor(line.receivedAtMs / 1000), (line.receivedAtMs % 1000) * 1_000_000];
  return {
    hrTime: time,
    hrTimeObserved: time,
    body: line.text,
    resource,
    instrumentationScope,
    attributes: {
      'k8s.namespace.name': line.namespace,
      'nkudo.tenant.uid': line.tenantId,
      'nkudo.site.name': line.siteName,
      'nkudo.microvm.name': line.microvmName,
      'nkudo.microvm.uid': line.microvmId,
      'nkudo.log.source': line.source,
      'nkudo.log.incarnation': line.incarnation,
      'nkudo.log.offset': line.offset,
      ...(line.gapBytes > 0 ? { 'nkudo.log.gap_bytes': line.gapBytes } : {}),
    },
    droppedAttributesCount: 0,
  };
}
