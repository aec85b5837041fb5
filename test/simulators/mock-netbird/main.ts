/**
 * The management side of mock-netbird as a program. Tokens come in the environment, so that no process list shows
 * them. Prints one JSON line `{"management": url, "admin": url}` when it accepts connections; ends at SIGTERM.
 *
 * Usage: node main.ts [--management-port N] [--admin-port N]
 */
import { parseArgs } from 'node:util';
import { startMockNetbird } from './server.ts';

const { values } = parseArgs({
  options: { 'management-port': { type: 'string', default: '0' }, 'admin-port': { type: 'string', default: '0' } },
});
const tokens = (process.env['MOCK_NETBIRD_TOKENS'] ?? '').split(',').filter((token) => token !== '');

const server = await startMockNetbird({ tokens, managementPort: Number(values['management-port']), adminPort: Number(values['admin-port']) });
process.stdout.write(`${JSON.stringify({ management: server.managementUrl, admin: server.adminUrl })}\n`);
for (const signal of ['SIGTERM', 'SIGINT'] as const) {
  process.once(signal, () => {
    void server.close().then(() => process.exit(0));
  });
}
