/** `config`: each setting as it is in effect, and where it came from. */
import type { EffectiveConfig } from '../config/resolve.ts';
import { settings } from '../config/settings.ts';
import { renderTable } from './table.ts';

export function showConfig(effective: EffectiveConfig, output: string): string {
  if (output === 'json') return JSON.stringify(effective, null, 2);
  return renderTable(
    ['SETTING', 'VALUE', 'FROM', 'MEANING'],
    settings.map(({ key, meaning }) => {
      const { value, source } = effective[key];
      return [key, Array.isArray(value) ? value.join(', ') : String(value), source, meaning];
    }),
  );
}
