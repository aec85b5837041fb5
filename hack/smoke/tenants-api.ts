/** The few calls of the tenants' API that a smoke run needs, as any program of a tenant makes them. */
import { request } from 'node:https';
import { serverName } from '#controller/pki/certificates.ts';

export interface TenantsApi {
  /** `host:port` */
  readonly address: string;
  readonly authorityPem: string;
  readonly token: string;
}

/** @throws Error with the status and the API's own sentence */
export function getText(api: TenantsApi, path: string, signal: AbortSignal): Promise<string> {
  const { hostname, port } = new URL(`https://${api.address}`);
  return new Promise((resolve, reject) => {
    const outgoing = request({ hostname, port, path, ca: api.authorityPem, servername: serverName, agent: false, signal, headers: { authorization: `Bearer ${api.token}` } }, (response) => {
      let text = '';
      response.setEncoding('utf8').on('data', (piece: string) => (text += piece));
      response.on('error', reject).on('end', () => (response.statusCode === 200 ? resolve(text) : reject(new Error(`the tenants' API answered ${response.statusCode}: ${detailOf(text)}`))));
    });
    outgoing.on('error', (error) => reject(signal.aborted && signal.reason instanceof Error ? signal.reason : new Error(`the tenants' API at ${api.address} can't be reached: ${error.message}`)));
    outgoing.end();
  });
}

function detailOf(text: string): string {
  try {
    const { detail } = JSON.parse(text) as { detail?: unknown }; // Problem details, RFC 9457.
    return typeof detail === 'string' ? detail : text.slice(0, 200);
  } catch {
    return text.slice(0, 200);
  }
}
