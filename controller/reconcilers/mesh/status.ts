/** What Sites and Hosts show of the mesh. Pure. Their own reconcilers write it. */
import type { HostConditionReason } from '#crds/conditions.ts';
import type { Host } from '#crds/gen/host.ts';
import type { Site } from '#crds/gen/site.ts';
import type { MeshReport, MeshState } from '#api/model/mesh.ts';
import type { MeshHostRecord } from '#controller/ports/mesh-store.ts';
import type { DerivedCondition } from '#controller/runtime/status-patch.ts';
import { isMeshed } from './desired.ts';
import type { MeshFinding } from './board.ts';

/** None without a mesh; what was shown last while this process has not looked. */
export function deriveSiteMesh(site: Site, finding: MeshFinding | null): DerivedCondition[] {
  if (finding !== null) {
    const ready: DerivedCondition = { type: 'MeshReady', ...finding.ready };
    return finding.isolated === null ? [ready] : [ready, { type: 'MeshIsolated', ...finding.isolated }];
  }
  if (!isMeshed(site)) return [];
  const shown = (site.status?.conditions ?? []).filter(({ type }) => type === 'MeshReady' || type === 'MeshIsolated');
  if (shown.length > 0) return shown.map(({ type, status, reason, message }) => ({ type, status, reason, message }));
  return [{ type: 'MeshReady', status: 'False', reason: 'MeshConverging', message: 'the mesh account was not looked at yet' }];
}

interface HostMeshStatus {
  readonly fields: { readonly meshAddress?: string; readonly meshSubnet?: string };
  readonly conditions: readonly DerivedCondition[];
}

/** Empty without an order to join. */
export function deriveHostMesh(host: Host, mesh: MeshHostRecord | null, isHeard: boolean): HostMeshStatus {
  if (mesh === null || mesh.order?.join !== true) return { fields: {}, conditions: [] };
  const address = mesh.report?.state === 'Connected' || mesh.report?.state === 'Connecting' ? mesh.report.address : (host.status?.meshAddress ?? '');
  return {
    fields: { ...(address === '' ? {} : { meshAddress: address }), ...(mesh.subnet === null ? {} : { meshSubnet: mesh.subnet }) },
    conditions: [deriveConnected(mesh.report, isHeard)],
  };
}

function connected(status: DerivedCondition['status'], reason: HostConditionReason<'MeshConnected'>, message: string): DerivedCondition {
  return { type: 'MeshConnected', status, reason, message };
}

function deriveConnected(report: MeshReport | null, isHeard: boolean): DerivedCondition {
  if (!isHeard) return connected('Unknown', 'HostSilent', 'the host is silent; its membership in the mesh goes on without the control plane');
  if (report === null) return connected('False', 'NotReported', 'the agent has not said anything about the mesh yet');
  const problem = report.problem === '' ? '' : `: ${report.problem}`;
  if (report.state === 'NeedsLogin' && report.wantsKey) return connected('False', 'WaitingForKey', `NetBird waits for a setup key${problem}`);
  if (report.state === 'Unknown') return connected('Unknown', 'NetBirdUnknown', `NetBird reports the state ${report.rawState === '' ? 'without a name' : report.rawState}, which this version does not know${problem}`);
  const [status, reason, message] = byState[report.state];
  return connected(status, reason, `${message}${problem}`);
}

const byState: Readonly<Record<Exclude<MeshState, 'Unknown'>, readonly ['True' | 'False', HostConditionReason<'MeshConnected'>, string]>> = {
  Connected: ['True', 'Connected', 'NetBird is connected to its management and signal server'],
  Connecting: ['False', 'Connecting', 'NetBird is on its way'],
  NeedsLogin: ['False', 'NeedsLogin', 'NetBird was logged out; the agent asks for a new key'],
  Missing: ['False', 'NetBirdMissing', 'there is no netbird command on the host: install NetBird, microVMs do not need it'],
  Stopped: ['False', 'NetBirdStopped', 'the netbird service does not answer: start it with systemctl start netbird'],
  Failed: ['False', 'NetBirdFailed', 'the host could not join'],
  NotConfigured: ['False', 'NotReported', 'the order to join is on its way'],
};
