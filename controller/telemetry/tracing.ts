/**
 * Traces that follow one operation from the reconcile that published it to the VMM and back. Off unless an OTLP endpoint
 * is set in the environment.
 *
 * The id of the trace is the id of the operation, which every part carries already, through the database, to other replicas
 * and to the host: no context has to travel beside it. Hosts export nothing, since they can't reach a collector; what
 * they did is in their reports, and becomes spans here, with the times of their own clock.
 */
import { context, SpanKind, SpanStatusCode, trace, TraceFlags, type Attributes, type Tracer } from '@opentelemetry/api';
import { OTLPTraceExporter } from '@opentelemetry/exporter-trace-otlp-http';
import { resourceFromAttributes } from '@opentelemetry/resources';
import { BatchSpanProcessor, RandomIdGenerator, TracerProvider, type SpanExporter } from '@opentelemetry/sdk-trace';

/** One finished piece of work on an operation. */
export interface SpanOfOperation {
  readonly name: 'publish' | 'hand over' | 'accepted by host' | 'executed by host' | 'store report' | 'write status';
  /** UUID. */
  readonly operationId: string;
  /** By the wall clock of whoever did it, epoch milliseconds. */
  readonly startMs: number;
  readonly endMs: number;
  readonly attributes?: Attributes;
  /** Code of the error catalogue; absent: it went well. */
  readonly errorCode?: string;
}

export interface Tracing {
  record(span: SpanOfOperation): void;
  /** Sends what is waiting, if the collector takes it in a few seconds. Never rejects. */
  stop(): Promise<void>;
}

export const noTracing: Tracing = { record: () => {}, stop: () => Promise.resolve() };

/** Span that begins the trace: everything else hangs below it, whoever records it. */
const rootName = 'publish';
/** Spans that wait for a collector; further ones are dropped, so that a collector that is away costs no memory. */
const queueMax = 4_096;
const stopTimeoutMs = 3_000;

/** True when the environment names a collector. Source: OpenTelemetry, OTLP exporter configuration. */
export function isTracingAsked(environment: Readonly<Record<string, string | undefined>>): boolean {
  return (environment['OTEL_EXPORTER_OTLP_TRACES_ENDPOINT'] ?? environment['OTEL_EXPORTER_OTLP_ENDPOINT'] ?? '') !== '' && environment['OTEL_SDK_DISABLED'] !== 'true';
}

/** The exporter reads its own settings (endpoint, headers, certificates) from the environment. */
export function createTracing(options: { readonly replica: string; readonly exporter?: SpanExporter }): Tracing {
  const ids = createIds();
  const exporter = options.exporter ?? new OTLPTraceExporter();
  const provider = new TracerProvider({
    resource: resourceFromAttributes({ 'service.name': 'nkudo-controller', 'service.instance.id': options.replica }),
    idGenerator: ids.generator,
    spanProcessors: [new BatchSpanProcessor({ exporter, maxQueueSize: queueMax })],
  });
  const tracer = provider.getTracer('nkudo');
  return {
    record: (span) => record(tracer, ids, span),
    stop: async () => {
      // A collector that refuses the last spans costs them, and not the order of the stop.
      const sent = provider.shutdown().catch(() => {});
      await Promise.race([sent, new Promise((resolve) => setTimeout(resolve, stopTimeoutMs).unref())]);
    },
  };
}

interface Ids {
  readonly generator: RandomIdGenerator;
  /** The next root span gets these. */
  use(traceId: string, spanId: string): void;
}

function createIds(): Ids {
  const random = new RandomIdGenerator();
  // Each is taken once, whichever is asked for first.
  let traceIdOnce: string | null = null;
  let spanIdOnce: string | null = null;
  return {
    generator: {
      generateTraceId: () => {
        const traceId = traceIdOnce ?? random.generateTraceId();
        traceIdOnce = null;
        return traceId;
      },
      generateSpanId: () => {
        const spanId = spanIdOnce ?? random.generateSpanId();
        spanIdOnce = null;
        return spanId;
      },
    },
    use: (traceId, spanId) => {
      traceIdOnce = traceId;
      spanIdOnce = spanId;
    },
  };
}

/** Both from the operation's id, so that every part knows them. */
function idsOf(operationId: string): { readonly traceId: string; readonly spanId: string } {
  const traceId = operationId.replaceAll('-', '');
  return { traceId, spanId: traceId.slice(16) };
}

function record(tracer: Tracer, ids: Ids, span: SpanOfOperation): void {
  const { traceId, spanId } = idsOf(span.operationId);
  const isRoot = span.name === rootName;
  const parent = isRoot ? context.active() : trace.setSpanContext(context.active(), { traceId, spanId, traceFlags: TraceFlags.SAMPLED, isRemote: true });
  if (isRoot) ids.use(traceId, spanId);
  const made = tracer.startSpan(
    span.name,
    { root: isRoot, kind: SpanKind.INTERNAL, startTime: span.startMs, attributes: { 'nkudo.operation.id': span.operationId, ...span.attributes } },
    parent,
  );
  if (span.errorCode !== undefined) made.setStatus({ code: SpanStatusCode.ERROR, message: span.errorCode });
  made.end(Math.max(span.startMs, span.endMs));
}
