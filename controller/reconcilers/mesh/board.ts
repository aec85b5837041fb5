/**
 * What the mesh reconciler found of each site, for the Site's reconciler to show: it is the one writer of the status.
 * In memory only: after a change of leader the last shown conditions stay until the account was looked at again.
 */
import { isDeepStrictEqual } from 'node:util';
import type { SiteConditionReason } from '#crds/conditions.ts';

export interface MeshFinding {
  readonly ready: { readonly status: 'True' | 'False'; readonly reason: SiteConditionReason<'MeshReady'>; readonly message: string };
  /** Null while the account was never seen. */
  readonly isolated: { readonly status: 'True' | 'False'; readonly reason: SiteConditionReason<'MeshIsolated'>; readonly message: string } | null;
}

export interface MeshBoard {
  of(siteUid: string): MeshFinding | null;
  /** A finding without `isolated` keeps the one before. */
  put(siteUid: string, finding: MeshFinding): void;
  remove(siteUid: string): void;
}

export function createMeshBoard(onChanged: (siteUid: string) => void): MeshBoard {
  const findings = new Map<string, MeshFinding>();
  return {
    of: (siteUid) => findings.get(siteUid) ?? null,
    put: (siteUid, finding) => {
      const before = findings.get(siteUid);
      const after = { ...finding, isolated: finding.isolated ?? before?.isolated ?? null };
      findings.set(siteUid, after);
      if (!isDeepStrictEqual(before, after)) onChanged(siteUid);
    },
    remove: (siteUid) => {
      if (findings.delete(siteUid)) onChanged(siteUid);
    },
  };
}
