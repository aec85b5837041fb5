/** Wires the audit commands: options to files, keys from a file or from the Secret. */
import { readFile } from 'node:fs/promises';
import { loadConnection } from '../adapters/kubernetes/connection.ts';
import { createKubernetesClient } from '../adapters/kubernetes/kubernetes-client.ts';
import { createSecrets } from '../adapters/kubernetes/secrets.ts';
import type { AuditChainStore } from '../ports/audit-chain.ts';
import { createTime } from '../runtime/time.ts';
import { exportAudit, readExport, verifyAudit } from './commands.ts';
import { createSignatureCheck } from './checkpoint-signer.ts';
import { loadSigningKey, signingSecretName } from './signing-key.ts';

export interface AuditCommandDeps {
  readonly chain: AuditChainStore;
  /** Of the Secret with the signing key. */
  readonly namespace: string;
  readonly nowMs: number;
  readonly print: (line: string) => void;
}

/** Returns the exit code. @throws Error with a sentence when a file or the Secret can't be used */
export async function runVerify(deps: AuditCommandDeps, options: { readonly against?: string; readonly publicKey?: string }): Promise<number> {
  const isSigned = createSignatureCheck(await loadPublicKeys(deps, options.publicKey));
  const exported = options.against === undefined ? [] : await readExport(options.against);
  return verifyAudit({ chain: deps.chain, isSigned, exported, print: deps.print });
}

/** Returns the exit code. @throws Error with a sentence when the file can't be written or the Secret can't be used */
export async function runExport(deps: AuditCommandDeps, options: { readonly file: string; readonly rows?: true; readonly publicKey?: string }): Promise<number> {
  const publicKeysPem = await loadPublicKeys(deps, options.publicKey);
  const counts = await exportAudit({ chain: deps.chain, file: options.file, withRows: options.rows === true, publicKeysPem, nowMs: deps.nowMs });
  deps.print(`exported ${counts.checkpoints} checkpoints and ${counts.rows} rows to ${options.file}`);
  return 0;
}

async function loadPublicKeys(deps: AuditCommandDeps, file: string | undefined): Promise<string> {
  if (file !== undefined) return readFile(file, 'utf8');
  const time = createTime({ nowMs: () => deps.nowMs, monotonicMs: () => performance.now(), random: () => Math.random() });
  const kubernetes = createKubernetesClient({ connection: loadConnection(null), fieldManager: 'nkudo-controller', userAgent: 'nkudo-controller', time });
  try {
    const key = await loadSigningKey(createSecrets(kubernetes, deps.namespace));
    if (key === null) throw new Error(`there is no Secret ${signingSecretName} in namespace ${deps.namespace}: give the public key with --public-key, or set NKUDO_NAMESPACE`);
    return key.publicKeysPem;
  } finally {
    kubernetes.close();
  }
}
