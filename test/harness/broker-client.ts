/**
 * A worker's side of the broker: asks for a shared service by name and waits until it is up.
 * Loads no builder, so that a test file starts fast.
 */
import { createConnection } from 'node:net';
import { createInterface } from 'node:readline';
import type { HarnessRun, SharedServices } from './run-context.ts';

/** Asks the broker for a service, from a worker. */
export function requestService<Name extends keyof SharedServices>(run: HarnessRun, name: Name): Promise<SharedServices[Name]> {
  return new Promise((resolve, reject) => {
    const socket = createConnection(run.brokerSocket, () => socket.write(`${name}\n`));
    socket.once('error', reject);
    const lines = createInterface({ input: socket });
    lines.once('error', reject);
    lines.once('line', (line) => {
      const answer: unknown = JSON.parse(line);
      if (typeof answer === 'object' && answer !== null && 'ok' in answer) {
        // Parsing boundary: the broker answers with what `SharedServices` names.
        resolve(answer.ok as SharedServices[Name]);
      } else {
        reject(new Error(`starting ${name}: ${JSON.stringify(answer)}`));
      }
    });
  });
}
