/**
 * `nkudo-controller audit verify` and `audit export`: what they read, what they print, and their exit codes. The walk
 * itself is the store's. An exported file has one JSON object in a line; its first line says what it is.
 */
import { createReadStream } from 'node:fs';
import { open, rename } from 'node:fs/promises';
import { createInterface } from 'node:readline';
import type { AuditChainStore, Checkpoint, SignatureCheck, TenantVerdict } from '../ports/audit-chain.ts';

const exportFormat = 'nkudo-audit-export/1';

/** Nothing bad was found; a bad row was found. What could not be looked at ends the program with 1. */
export const verifyExitCodes = { sound: 0, bad: 3 } as const;

export interface ExportOptions {
  readonly chain: AuditChainStore;
  readonly file: string;
  /** Also the audit rows with their links, for an archive. */
  readonly withRows: boolean;
  /** Public keys in PEM, for whoever reads the file; verifying asks for them from elsewhere. */
  readonly publicKeysPem: string;
  readonly nowMs: number;
}

/** Writes the file whole or not at all, readable by its owner only. */
export async function exportAudit(options: ExportOptions): Promise<{ readonly checkpoints: number; readonly rows: number }> {
  const counts = { checkpoints: 0, rows: 0 };
  const partial = `${options.file}.partial`;
  const handle = await open(partial, 'w', 0o600);
  try {
    const write = (item: object): Promise<unknown> => handle.write(`${JSON.stringify(item)}\n`);
    await write({ format: exportFormat, exportedAt: new Date(options.nowMs).toISOString(), publicKeys: options.publicKeysPem });
    for (const tenantId of await options.chain.tenants()) {
      for await (const checkpoint of options.chain.checkpoints(tenantId)) {
        await write({ checkpoint });
        counts.checkpoints += 1;
      }
      if (!options.withRows) continue;
      for await (const row of options.chain.rows(tenantId)) {
        await write({ row });
        counts.rows += 1;
      }
    }
    await handle.sync();
  } finally {
    await handle.close();
  }
  await rename(partial, options.file);
  return counts;
}

/** Checkpoints of an exported file. @throws Error when it is none */
export async function readExport(file: string): Promise<readonly Checkpoint[]> {
  const checkpoints: Checkpoint[] = [];
  let isKnown = false;
  for await (const line of createInterface({ input: createReadStream(file, 'utf8'), crlfDelay: Number.POSITIVE_INFINITY })) {
    if (line === '') continue;
    const item = parseLine(line, file);
    if (!isKnown && item['format'] !== exportFormat) throw new Error(`${file} was not written by 'audit export'`);
    isKnown = true;
    const checkpoint = item['checkpoint'];
    if (checkpoint !== undefined) checkpoints.push(parseCheckpoint(checkpoint, file));
  }
  if (!isKnown) throw new Error(`${file} is empty`);
  return checkpoints;
}

function parseLine(line: string, file: string): Readonly<Record<string, unknown>> {
  try {
    const parsed: unknown = JSON.parse(line);
    if (typeof parsed === 'object' && parsed !== null) return { ...parsed };
  } catch {
    // Said below.
  }
  throw new Error(`${file} has a line that is not JSON`);
}

function parseCheckpoint(value: unknown, file: string): Checkpoint {
  const fields: Readonly<Record<string, unknown>> = typeof value === 'object' && value !== null ? { ...value } : {};
  const text = (name: string): string => {
    const found = fields[name];
    if (typeof found !== 'string') throw new Error(`${file} has a checkpoint without ${name}`);
    return found;
  };
  const whole = (name: string): number => {
    const found = fields[name];
    if (typeof found !== 'number' || !Number.isSafeInteger(found)) throw new Error(`${file} has a checkpoint without ${name}`);
    return found;
  };
  return {
    tenantId: text('tenantId'), position: whole('position'), root: text('root'), previousPosition: whole('previousPosition'), madeAtMs: whole('madeAtMs'),
    keyId: text('keyId'), signature: text('signature'),
  };
}

export interface VerifyOptions {
  readonly chain: AuditChainStore;
  readonly isSigned: SignatureCheck;
  readonly exported: readonly Checkpoint[];
  readonly print: (line: string) => void;
}

/** Verifies every tenant's chain, also of tenants that only the exported file knows. Returns the exit code. */
export async function verifyAudit(options: VerifyOptions): Promise<number> {
  const tenants = new Set([...(await options.chain.tenants()), ...options.exported.map((checkpoint) => checkpoint.tenantId)]);
  let bad = 0;
  let rows = 0;
  for (const tenantId of [...tenants].toSorted()) {
    const verdict = await options.chain.verify(tenantId, options.exported, options.isSigned);
    rows += verdict.rows;
    if (verdict.bad !== null) bad += 1;
    options.print(describeVerdict(verdict));
  }
  if (options.exported.length === 0) options.print('Without an exported file (--against) an end that was cut off together with its checkpoints can not be seen.');
  options.print(bad === 0 ? `sound: ${rows} rows of ${tenants.size} chains` : `BAD: ${bad} of ${tenants.size} chains`);
  return bad === 0 ? verifyExitCodes.sound : verifyExitCodes.bad;
}

/** One line for people. */
export function describeVerdict(verdict: TenantVerdict): string {
  const proved = verdict.provedTo === 0 ? 'nothing is proved by a signature' : `proved up to row ${verdict.provedTo}, signed ${new Date(verdict.provedAtMs ?? 0).toISOString()}`;
  if (verdict.bad !== null) {
    const { table, position, eventId, problem } = verdict.bad;
    const place = [position === null ? '' : `position ${position}`, eventId === null ? '' : `row id ${eventId}`].filter((part) => part !== '').join(', ');
    return `${verdict.tenantId}: BAD at ${place} in ${table}: ${problem}; before it, ${proved}`;
  }
  const rest = [verdict.rows > verdict.provedTo ? `${verdict.rows - verdict.provedTo} rows after it agree and are not signed yet` : '', verdict.unlinked > 0 ? `${verdict.unlinked} rows wait for their link` : ''];
  return [`${verdict.tenantId}: sound, ${verdict.rows} rows`, proved, ...rest].filter((part) => part !== '').join('; ');
}
