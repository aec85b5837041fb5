import { expect, test } from 'vitest';
import type { Hypervisor } from '../../ports/hypervisor.ts';
import { createHostFacts } from './host-facts.ts';

test('a hypervisor that does not answer in time is a problem of the host, not an error', async () => {
  const stuck: Pick<Hypervisor, 'probe'> = {
    probe: (signal) => new Promise((_resolve, reject) => signal.addEventListener('abort', () => reject(signal.reason as Error), { once: true })), // As AbortSignal gives it.
  };
  const ending = new AbortController();
  const read = createHostFacts({ hypervisor: stuck as Hypervisor, agentVersion: '0' }).read(ending.signal); // Facts ask for nothing else.
  ending.abort(new DOMException('too late', 'TimeoutError'));
  expect(await read).toMatchObject({ hasKvm: false, hypervisor: { kind: 'none', problem: 'the hypervisor did not tell its version in time' } });
});
