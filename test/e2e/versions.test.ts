/** [R6] The release before this one and this one in all combinations; those before it are in test/long. */
import { earlierReleases } from './earlier-programs.ts';
import { describeSideBySide } from './side-by-side.ts';

const [previous] = await earlierReleases();
await describeSideBySide(previous);
