/**
 * Who does what to which object. Every mutating call of a store takes the actor and writes its audit
 * row in the same transaction; there is no call that writes an audit row alone.
 */
export interface Actor {
  /** `controller` reconcilers, `host` an agent by its certificate, `user` a Kubernetes identity, `apiKey`, `system` housekeeping, `siteOperator` a person at a site, as the host tells. */
  readonly kind: 'controller' | 'host' | 'user' | 'apiKey' | 'system' | 'siteOperator';
  /** Host id, user name, key id or replica name; at most 253 characters. */
  readonly name: string;
  /** Remote address `ip:port`, empty when there is none. Of a person at a site the host, and when it was ordered there. */
  readonly from: string;
}
