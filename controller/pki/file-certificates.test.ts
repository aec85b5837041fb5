import 'reflect-metadata';
import { X509Certificate } from 'node:crypto';
import { mkdtempSync, renameSync, rmSync, symlinkSync, mkdirSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { experimental } from '@grpc/grpc-js';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { createAuthority, issueServerCertificate } from './certificates.ts';
import { createFileCertificates } from './file-certificates.ts';

const nowMs = Date.UTC(2026, 0, 1);
let directory = '';
beforeEach(() => void (directory = mkdtempSync(join(tmpdir(), 'nkudo-tls-'))));
afterEach(() => rmSync(directory, { recursive: true }));

const makePair = async (): Promise<{ readonly chainPem: string; readonly keyPem: string }> => issueServerCertificate(await createAuthority(nowMs), { hosts: ['api.example.com'], nowMs, validityMs: 3_600_000 });
const serialOf = (pem: string | Buffer): string => new X509Certificate(pem).serialNumber;

/** As kubelet does: a folder for each version, and a link that is swapped. */
function publish(version: string, pair: { readonly chainPem: string; readonly keyPem: string }): void {
  mkdirSync(join(directory, version));
  writeFileSync(join(directory, version, 'tls.crt'), pair.chainPem);
  writeFileSync(join(directory, version, 'tls.key'), pair.keyPem);
  symlinkSync(version, join(directory, '..data.new'));
  renameSync(join(directory, '..data.new'), join(directory, '..data'));
}

test('gives the pair of the folder, and the next one when the folder changes', async () => {
  const [first, second] = [await makePair(), await makePair()];
  publish('1', first);
  for (const name of ['tls.crt', 'tls.key']) symlinkSync(join('..data', name), join(directory, name));
  const certificates = createFileCertificates(directory, { info: () => {}, error: () => {} });
  const serials: string[] = [];
  const waiting = new Map<string, () => void>();
  const seen = (serial: string): Promise<void> => new Promise((resolve) => (serials.includes(serial) ? resolve() : void waiting.set(serial, resolve)));
  const listener = (pair: experimental.IdentityCertificateUpdate | null): void => {
    if (pair === null) return;
    serials.push(serialOf(pair.certificate));
    waiting.get(serialOf(pair.certificate))?.();
  };
  certificates.addIdentityCertificateListener(listener);
  await seen(serialOf(first.chainPem));
  publish('2', second);
  await seen(serialOf(second.chainPem));
  certificates.close();
  expect(serials).toEqual([serialOf(first.chainPem), serialOf(second.chainPem)]);
});

test('keeps the last good pair while the folder holds none, and refuses to start with one', async () => {
  const [first, other] = [await makePair(), await makePair()];
  expect(() => createFileCertificates(directory, { info: () => {}, error: () => {} })).toThrow('tls.crt in the folder of NKUDO_API_TLS_DIR can not be read');
  writeFileSync(join(directory, 'tls.crt'), first.chainPem);
  writeFileSync(join(directory, 'tls.key'), other.keyPem);
  expect(() => createFileCertificates(directory, { info: () => {}, error: () => {} })).toThrow('is not the key of tls.crt');
  writeFileSync(join(directory, 'tls.key'), first.keyPem);
  const errors: unknown[] = [];
  const certificates = createFileCertificates(directory, { info: () => {}, error: (fields: unknown) => void errors.push(fields) });
  certificates.close();
  const serials: string[] = [];
  certificates.addIdentityCertificateListener((pair) => void (pair !== null && serials.push(serialOf(pair.certificate))));
  await new Promise((resolve) => process.nextTick(resolve));
  writeFileSync(join(directory, 'tls.key'), 'nonsense');
  certificates.reload();
  expect(errors).toHaveLength(1);
  expect(serials).toEqual([serialOf(first.chainPem)]);
});
