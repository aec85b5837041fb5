/**
 * The OpenAPI description of the management API as a judge: which operation a request is, and whether a request or
 * an answer is as the description says. The simulator asks it about everything that it receives and sends.
 *
 * Where the real server was measured to differ from its own description, the difference is listed in
 * `measuredDifferences` and nowhere else; everything that is not listed is a violation.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Ajv2020, type ValidateFunction } from 'ajv/dist/2020.js';
import { parse } from 'yaml';

const descriptionFile = join(import.meta.dirname, '..', '..', '..', 'controller', 'adapters', 'netbird', 'netbird-management.yml');
const methods = ['get', 'post', 'put', 'delete'] as const;

/** Source: measured on NetBird v0.77.1, and read in its handlers. */
export const measuredDifferences = {
  /** Arrays by type that come as `null` when they are empty. */
  nullArrays: new Set(['peers', 'resources', 'source_posture_checks', 'sources', 'destinations', 'groups', 'peer_groups']),
  /** The description says that a resource's type is in both of two lists that have no word in common; the server means either. */
  resourceTypes: ['host', 'subnet', 'domain', 'peer'],
  /** `expires_in` below the minimum of the description is taken. */
  lowerExpiresIn: 'expires_in',
  /** Statuses that the server gives although the description does not name them. */
  undescribedStatuses: new Set([401, 404, 409, 412, 422, 429, 500]),
} as const;

/** An operation of the description, such as `PUT /api/groups/{groupId}`. */
export interface Operation {
  readonly method: string;
  readonly template: string;
  readonly parameters: Readonly<Record<string, string>>;
}

interface Described {
  readonly method: string;
  readonly template: string;
  readonly pattern: RegExp;
  readonly names: readonly string[];
  readonly pointer: string;
  readonly responses: Readonly<Record<string, unknown>>;
  readonly hasRequestBody: boolean;
}

type Json = Record<string, unknown>;

/** The parsed description with compiled checks; compiled at first use, because the file is large. */
export class Description {
  readonly #ajv = new Ajv2020({ strict: false, allErrors: false, validateFormats: true });
  readonly #operations: readonly Described[];
  readonly #validators = new Map<string, ValidateFunction>();

  constructor(file: string = descriptionFile) {
    const document = parse(readFileSync(file, 'utf8')) as Json; // A file of this repository, an object at its root.
    this.#ajv.addFormat('date-time', (text: string) => /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$/.test(text));
    this.#ajv.addFormat('ipv4', /^\d{1,3}(\.\d{1,3}){3}$/);
    this.#ajv.addFormat('ipv6', /^[0-9a-f:]+$/i);
    for (const format of ['password', 'int32', 'int64', 'float', 'double', 'email', 'uri']) this.#ajv.addFormat(format, true);
    const schemas = (document['components'] as Json)['schemas'] as Json; // As above.
    schemas['ResourceType'] = { type: 'string', enum: measuredDifferences.resourceTypes };
    this.#ajv.addSchema({ $id: 'description', ...document });
    // A path without parameters wins over one that it also fits: /networks/routers is no network id.
    this.#operations = operationsOf(document).sort((a, b) => a.names.length - b.names.length);
  }

  /** The operation, or null for a path or method that the description does not know. */
  find(method: string, path: string): Operation | null {
    for (const described of this.#operations) {
      if (described.method !== method) continue;
      const match = described.pattern.exec(path);
      if (match === null) continue;
      const parameters: Record<string, string> = {};
      described.names.forEach((name, index) => (parameters[name] = decodeURIComponent(match[index + 1] ?? '')));
      return { method, template: described.template, parameters };
    }
    return null;
  }

  /** What is wrong with a request body, or null. */
  checkRequest(operation: Operation, body: unknown): string | null {
    const described = this.#described(operation);
    if (!described.hasRequestBody) return body === undefined ? null : 'the operation takes no body';
    return this.#validate(`${described.pointer}/requestBody/content/application~1json/schema`, withoutMeasuredRequestDifferences(body));
  }

  /** What is wrong with an answer, or null. */
  checkResponse(operation: Operation, status: number, body: unknown): string | null {
    const described = this.#described(operation);
    const isDescribed = Object.hasOwn(described.responses, String(status));
    if (!isDescribed && !measuredDifferences.undescribedStatuses.has(status)) return `status ${status} is not described`;
    if (status >= 400) return this.#validate('/components/schemas/ErrorResponse', body);
    const response = described.responses[String(status)] as Json; // Described, as was asked above.
    const content = response['content'] as Json | undefined;
    if (content?.['application/json'] === undefined) return null;
    const pointer = `${described.pointer}/responses/${status}/content/application~1json/schema`;
    return this.#validate(pointer, withoutMeasuredDifferences(body));
  }

  #described(operation: Operation): Described {
    const described = this.#operations.find(({ method, template }) => method === operation.method && template === operation.template);
    if (described === undefined) throw new Error(`no operation ${operation.method} ${operation.template}`);
    return described;
  }

  #validate(pointer: string, value: unknown): string | null {
    let validator = this.#validators.get(pointer);
    if (validator === undefined) {
      validator = this.#ajv.compile({ $ref: `description#${pointer}` });
      this.#validators.set(pointer, validator);
    }
    if (validator(value)) return null;
    return this.#ajv.errorsText(validator.errors, { dataVar: 'body' });
  }
}

function operationsOf(document: Json): Described[] {
  const paths = document['paths'] as Record<string, Json>; // The shape that OpenAPI prescribes.
  return Object.entries(paths).flatMap(([template, item]) =>
    methods.flatMap((method) => {
      const operation = item[method] as Json | undefined;
      if (operation === undefined) return [];
      const names = [...template.matchAll(/\{([^}]+)\}/g)].map((match) => match[1] ?? '');
      return [
        {
          method: method.toUpperCase(),
          template,
          pattern: new RegExp(`^${template.replaceAll(/\{[^}]+\}/g, '([^/]+)')}$`),
          names,
          pointer: `/paths/${template.replaceAll('~', '~0').replaceAll('/', '~1').replaceAll('{', '%7B').replaceAll('}', '%7D')}/${method}`,
          responses: operation['responses'] as Json,
          hasRequestBody: operation['requestBody'] !== undefined,
        },
      ];
    }),
  );
}

/** A copy in which a listed null is the empty array that the description promises. */
function withoutMeasuredDifferences(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(withoutMeasuredDifferences);
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(
    Object.entries(value).map(([key, part]) => [
      key,
      part === null && measuredDifferences.nullArrays.has(key) ? [] : withoutMeasuredDifferences(part),
    ]),
  );
}

function withoutMeasuredRequestDifferences(body: unknown): unknown {
  if (typeof body !== 'object' || body === null || !(measuredDifferences.lowerExpiresIn in body)) return body;
  const seconds = body.expires_in;
  return typeof seconds === 'number' && seconds >= 0 ? { ...body, expires_in: Math.max(seconds, 86_400) } : body;
}
