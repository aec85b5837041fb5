/**
 * References to images in OCI registries, as people write them: `registry.example:5000/team/app:1.2@sha256:…`.
 * Grammar and short forms are those of Docker and Kubernetes (distribution/reference): without a registry
 * it is docker.io, and there without a team it is library. Pure.
 */
export interface OciReference {
  /** `host` or `host:port`. */
  readonly registry: string;
  /** Path within the registry, without a slash at either end. */
  readonly repository: string;
  readonly tag?: string;
  /** 64 lower-case hexadecimal digits. */
  readonly sha256?: string;
}

const registryPattern = /^[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*(:[0-9]{1,5})?$/;
const componentPattern = /^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*$/;
const tagPattern = /^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$/;
const digestPattern = /^sha256:[0-9a-f]{64}$/;
/** Source: distribution/reference, NameTotalLengthMax. */
const nameMax = 255;

/** @returns null for what is no reference; the reason is mostly a letter in upper case or a digest that is no sha256 */
export function parseOciReference(text: string): OciReference | null {
  const [named = '', digest, ...more] = text.split('@');
  if (more.length > 0 || (digest !== undefined && !digestPattern.test(digest))) return null;
  const slash = named.indexOf('/');
  const first = slash < 0 ? '' : named.slice(0, slash);
  const hasRegistry = first.includes('.') || first.includes(':') || first === 'localhost';
  const registry = hasRegistry ? first.toLowerCase() : 'docker.io';
  const rest = hasRegistry ? named.slice(slash + 1) : named;
  const colon = rest.indexOf(':');
  const path = colon < 0 ? rest : rest.slice(0, colon);
  const tag = colon < 0 ? undefined : rest.slice(colon + 1);
  const repository = registry === 'docker.io' && !path.includes('/') ? `library/${path}` : path;
  const isNamed = registryPattern.test(registry) && repository.split('/').every((component) => componentPattern.test(component));
  if (!isNamed || registry.length + repository.length >= nameMax || (tag !== undefined && !tagPattern.test(tag))) return null;
  return { registry, repository, ...(tag === undefined ? {} : { tag }), ...(digest === undefined ? {} : { sha256: digest.slice('sha256:'.length) }) };
}
