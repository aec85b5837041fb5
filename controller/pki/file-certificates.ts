/**
 * A server certificate that somebody else keeps in a folder, as kubelet and cert-manager do: tls.crt and tls.key, read
 * anew when the folder changes. Invariant: listeners always hold a valid pair; one that can't be used keeps the last good one.
 */
import { createPrivateKey, X509Certificate } from 'node:crypto';
import { readFileSync, watch } from 'node:fs';
import { join } from 'node:path';
import type { experimental } from '@grpc/grpc-js';
import type { Logger } from 'pino';

export interface FileCertificates extends experimental.CertificateProvider {
  /** Looks again; for file systems that tell of no change. */
  reload(): void;
  close(): void;
}

/** @throws Error with a sentence when the folder holds no usable pair at the start */
export function createFileCertificates(directory: string, log: Pick<Logger, 'info' | 'error'>): FileCertificates {
  const listeners = new Set<experimental.IdentityCertificateUpdateListener>();
  let pair = readPair(directory);
  const reload = (): void => {
    try {
      const found = readPair(directory);
      if (found.certificate.equals(pair.certificate) && found.privateKey.equals(pair.privateKey)) return;
      pair = found;
      for (const listener of listeners) listener(pair);
      log.info({ serial: new X509Certificate(pair.certificate).serialNumber }, 'the tenants’ API has a new certificate');
    } catch (error) {
      // Between the two files of a change that is not made in one step, for instance.
      log.error({ reason: error instanceof Error ? error.message : String(error) }, 'the certificate of the tenants’ API can not be used; the last one stays');
    }
  };
  // Kubelet swaps a link in the folder, other tools the files: both are changes of the folder.
  const watcher = watch(directory, { persistent: false }, reload);
  watcher.on('error', () => {}); // The hourly look goes on.
  return {
    reload,
    close: () => watcher.close(),
    addIdentityCertificateListener: (listener) => {
      listeners.add(listener);
      // Later, as grpc-js adds its own watcher only after this call returns.
      process.nextTick(() => listener(pair));
    },
    removeIdentityCertificateListener: (listener) => void listeners.delete(listener),
    // Callers of the tenants' API show no certificates.
    addCaCertificateListener: () => {},
    removeCaCertificateListener: () => {},
  };
}

function readPair(directory: string): experimental.IdentityCertificateUpdate {
  const read = (name: string): Buffer => {
    try {
      return readFileSync(join(directory, name));
    } catch (cause) {
      throw new Error(`${name} in the folder of NKUDO_API_TLS_DIR can not be read`, { cause });
    }
  };
  const certificate = read('tls.crt');
  const privateKey = read('tls.key');
  let fits: boolean;
  try {
    fits = new X509Certificate(certificate).checkPrivateKey(createPrivateKey(privateKey));
  } catch (cause) {
    throw new Error('tls.crt or tls.key in the folder of NKUDO_API_TLS_DIR is not PEM', { cause });
  }
  if (!fits) throw new Error('tls.key in the folder of NKUDO_API_TLS_DIR is not the key of tls.crt');
  return { certificate, privateKey };
}
