/** [R6] The oldest release that this one says it goes together with, in all combinations. */
import { oldestCompatibleRelease } from '#hack/release/contracts.ts';
import { earlierReleases } from '../e2e/earlier-programs.ts';
import { describeSideBySide } from '../e2e/side-by-side.ts';

const releases = await earlierReleases();
await describeSideBySide(releases.find(({ version }) => version === oldestCompatibleRelease));
