/** Owns a run with a child, and a grandchild in a session of its own, and waits to be killed. */
import { createRunDirectory, findProcessesOf } from '#hack/stack/run-directory.ts';
import { startProcess } from '#hack/stack/process.ts';

const run = createRunDirectory('nkudo-o-');
const child = await startProcess({
  name: 'child',
  command: '/bin/sh',
  args: ['-c', 'setsid sleep 1000 & echo started; sleep 1000'],
  runDirectory: run.path,
  logFile: `${run.path}/child.log`,
});
await child.waitForLine(/started/);
while (findProcessesOf(run.path).length < 3) {
  await new Promise((resolve) => setImmediate(resolve));
}
process.stdout.write(`${run.path}\n`);
setInterval(() => {}, 60_000);
