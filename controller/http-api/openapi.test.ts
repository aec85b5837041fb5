import { Validator } from '@seriousme/openapi-schema-validator';
import { describe, expect, it } from 'vitest';
import { describeApi } from './openapi.ts';
import { httpRoutes } from './routes.ts';

/** The document as whoever fetches it sees it. */
const document = JSON.parse(JSON.stringify(describeApi())) as {
  readonly paths: Readonly<Record<string, Readonly<Record<string, { readonly operationId: string; readonly parameters: readonly Parameter[]; readonly requestBody?: unknown }>>>>;
  readonly components: { readonly schemas: Readonly<Record<string, Schema>> };
}; // Of describeApi.
interface Schema { readonly description?: string; readonly properties?: Readonly<Record<string, Schema>>; readonly [key: string]: unknown }
interface Parameter { readonly name: string; readonly in: string; readonly description?: string; readonly schema: Schema }

const operations = Object.entries(document.paths).flatMap(([path, methods]) => Object.entries(methods).map(([method, operation]) => ({ path, method, operation })));

describe('the description of the API', () => {
  it('is a valid OpenAPI document', async () => {
    expect(await new Validator().validate(describeApi() as Record<string, unknown>)).toMatchObject({ valid: true });
  });

  it('is refused by the validator when something is wrong with it', async () => {
    expect((await new Validator().validate({ ...describeApi(), paths: { '/x': { get: { parameters: 'none' } } } })).valid).toBe(false);
  });

  it('has every route of the table and no other, each under a name of its own', () => {
    expect(operations.map(({ path, method }) => `${method.toUpperCase()} ${path}`).toSorted()).toEqual(httpRoutes.map(({ path, method }) => `${method} ${path}`).toSorted());
    expect(new Set(operations.map(({ operation }) => operation.operationId)).size).toBe(operations.length);
  });

  it('refers to nothing that is not there', () => {
    const names = [...JSON.stringify(document).matchAll(/#\/components\/schemas\/(\w+)/g)].map((match) => match[1] ?? '');
    expect(new Set(names)).toEqual(new Set(Object.keys(document.components.schemas)));
  });

  it('says of every field what it means', () => {
    const fields = Object.entries(document.components.schemas).flatMap(([name, schema]) => Object.entries(schema.properties ?? {}).map(([field, each]) => [`${name}.${field}`, each] as const));
    expect(fields.filter(([name, schema]) => !name.startsWith('Problem.') && schema.description === undefined).map(([name]) => name)).toEqual([]);
    expect(operations.flatMap(({ path, operation }) => operation.parameters.filter((parameter) => parameter.description === undefined).map(({ name }) => `${path} ${name}`))).toEqual([]);
  });

  it('takes the limits of fields from the rules that check them', () => {
    const parameter = (path: string, name: string): Parameter | undefined => document.paths[`/v1/namespaces/{namespace}${path}`]?.['get']?.parameters.find((each) => each.name === name);
    expect(parameter('/microvms', 'pageSize')?.schema).toMatchObject({ type: 'integer', minimum: 0, maximum: 1000 });
    expect(parameter('/plans', 'pageSize')?.schema).toMatchObject({ maximum: 100 });
    expect(parameter('/executions', 'status')?.schema).toMatchObject({ enum: ['Running', 'Succeeded', 'Failed', 'Expired', 'Dropped', 'OutcomeUnknown'] });
    expect(parameter('/plans', 'status')?.schema).toMatchObject({ enum: expect.arrayContaining(['PLAN_STATUS_SUCCEEDED']) });
    expect(parameter('/sites/{name}', 'uid')).toBeUndefined();
    expect(document.paths['/v1/namespaces/{namespace}/plans']?.['post']?.requestBody).toMatchObject({
      content: { 'application/json': { schema: { properties: { actions: { minItems: 1, maxItems: 256, items: { properties: { objectJson: { maxLength: 65_536 } } } } }, additionalProperties: false } } },
    });
  });
});
