/** The object without some of its optional fields; under exactOptionalPropertyTypes that is how a field is unset. */
export function omit<Value extends object, Key extends keyof Value>(value: Value, ...keys: readonly Key[]): Omit<Value, Key> {
  const left: Partial<Value> = { ...value };
  for (const key of keys) delete left[key];
  return left as Omit<Value, Key>; // Everything but the keys is still there.
}
