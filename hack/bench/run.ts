/** `npm run bench`: small measurements of what the design gives a budget for. They print ratios; none gates a change. */
import { benchAgent } from './agent.ts';
import { benchLogs } from './logs.ts';
import { benchPlacement } from './placement.ts';

const benches: Readonly<Record<string, (say: (text: string) => void) => Promise<boolean>>> = { agent: benchAgent, logs: benchLogs, placement: benchPlacement };
const wanted = process.argv.slice(2);
const unknown = wanted.find((name) => !(name in benches));
if (unknown !== undefined) {
  process.stderr.write(`there is no bench '${unknown}': there are ${Object.keys(benches).join(', ')}\n`);
  process.exitCode = 2;
} else {
  for (const [name, bench] of Object.entries(benches)) {
    if (wanted.length > 0 && !wanted.includes(name)) continue;
    const isWithin = await bench((text) => process.stdout.write(`${text}\n`));
    if (!isWithin) process.stdout.write(`${name}: the budget was missed on this machine, now\n`);
  }
}
