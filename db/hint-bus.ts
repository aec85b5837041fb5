/**
 * Hints that something was committed: at once to listeners of this process, and as one NOTIFY at most every interval to
 * other replicas. NOTIFY runs on a connection of its own and never in a transaction that wrote, because its commit
 * holds a lock on the whole database. The payload is the replica's name and nothing else. Losing one is harmless.
 */
import pg from 'pg';
import type { ChangeHint } from '#controller/ports/dispatch-store.ts';
import type { HintBus, Unsubscribe } from '#controller/ports/hints.ts';
import type { DatabaseLog } from './log.ts';
import { sqlstateOf } from './pool.ts';

const channel = 'nkudo_changes';
const defaultNotifyIntervalMs = 10;
const reconnectMinMs = 100;
const reconnectMaxMs = 5_000;
const connectTimeoutMs = 5_000;
/** A server that answers no notification for so long is gone, although nobody closed the connection; so few wait at most. */
const defaultAnswerTimeoutMs = 5_000;

export interface HintBusOptions {
  /** A direct connection, not through a transaction pooler, of the cross-tenant role. */
  readonly url: string;
  /** Name of this replica, at most 253 characters; its own notifications are ignored. */
  readonly replica: string;
  readonly log: DatabaseLog;
  /** Least time between two notifications, milliseconds. */
  readonly notifyIntervalMs?: number;
  /** Longest wait for the answer to one, milliseconds. */
  readonly answerTimeoutMs?: number;
}

/** Connects in the background and stays connected until closed. */
export function createHintBus(options: HintBusOptions): HintBus {
  const hintListeners = new Set<{ readonly call: (hint: ChangeHint) => void }>();
  const remoteListeners = new Set<{ readonly call: () => void }>();
  const intervalMs = options.notifyIntervalMs ?? defaultNotifyIntervalMs;
  let isClosed = false;
  let client: pg.Client | null = null;
  let notifyTimer: NodeJS.Timeout | null = null;
  let notifiedAtMs = -Infinity;
  let reconnectTimer: NodeJS.Timeout | null = null;
  let attempts = 0;
  let wasConnected = false;

  const call = (listener: () => void): void => {
    try {
      listener();
    } catch (error) {
      options.log.error({ error: error instanceof Error ? error.name : 'unknown' }, 'a listener for hints failed');
    }
  };
  const announceRemote = (): void => [...remoteListeners].forEach((listener) => call(listener.call));

  const reconnect = (lost: pg.Client): void => {
    if (client !== lost || isClosed) return;
    client = null;
    lost.end().catch(() => {}); // It is lost already.
    const delayMs = Math.min(reconnectMaxMs, reconnectMinMs * 2 ** attempts);
    attempts += 1;
    reconnectTimer = setTimeout(connect, delayMs);
  };

  function connect(): void {
    reconnectTimer = null;
    const made = new pg.Client({
      connectionString: options.url, connectionTimeoutMillis: connectTimeoutMs, query_timeout: options.answerTimeoutMs ?? defaultAnswerTimeoutMs,
      keepAlive: true, application_name: 'nkudo-hints',
    });
    client = made;
    made.on('error', (error) => {
      options.log.warn({ sqlstate: sqlstateOf(error) ?? null }, 'the connection for hints was lost');
      reconnect(made);
    });
    made.on('end', () => reconnect(made));
    made.on('notification', (message) => {
      if (message.channel === channel && message.payload !== options.replica) announceRemote();
    });
    made
      .connect()
      .then(() => made.query(`listen ${channel}`))
      .then(() => {
        attempts = 0;
        // What was announced while nobody listened is lost: everything is read again.
        if (wasConnected) announceRemote();
        wasConnected = true;
      })
      .catch((error: unknown) => {
        options.log.warn({ sqlstate: sqlstateOf(error) ?? null }, 'the connection for hints can not be made');
        reconnect(made);
      });
  }

  const notify = (): void => {
    notifyTimer = null;
    notifiedAtMs = performance.now();
    // Lost when not connected: other replicas read everything again after their own reconnect, and at each resync.
    const used = client;
    used?.query('select pg_notify($1, $2)', [channel, options.replica]).catch((error: unknown) => {
      options.log.warn({ sqlstate: sqlstateOf(error) ?? null }, 'a hint for other replicas was lost');
      reconnect(used);
    });
  };

  connect();
  return {
    publish: (hint) => {
      if (isClosed) return;
      for (const listener of [...hintListeners]) call(() => listener.call(hint));
      // The first after a while goes out in the same turn's end; those that follow share the next.
      notifyTimer ??= setTimeout(notify, Math.max(0, notifiedAtMs + intervalMs - performance.now()));
    },
    onHint: (listener) => subscribe(hintListeners, listener),
    onRemoteChange: (listener) => subscribe(remoteListeners, listener),
    close: async () => {
      isClosed = true;
      if (notifyTimer !== null) clearTimeout(notifyTimer);
      if (reconnectTimer !== null) clearTimeout(reconnectTimer);
      await client?.end().catch(() => {}); // Nothing is under way that could be lost.
    },
  };
}

function subscribe<Listener>(listeners: Set<{ readonly call: Listener }>, call: Listener): Unsubscribe {
  const entry = { call }; // The same function may listen twice.
  listeners.add(entry);
  return () => void listeners.delete(entry);
}
