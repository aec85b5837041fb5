import { describe, expect, it } from 'vitest';
import type { AgentReport } from '#api/model/release.ts';
import type { Host } from '#crds/gen/host.ts';
import type { HostRecord } from '#controller/ports/host-store.ts';
import { deriveAgentOrder, deriveAgentUpToDate } from './agent-version.ts';

const hostWith = (agent?: object): Host => ({ metadata: { name: 'edge-1', namespace: 'shop', uid: 'u' }, spec: { siteRef: { name: 'shop-1' }, ...(agent === undefined ? {} : { agent }) } }) as Host; // Only the spec is looked at.
const order = { version: '0.4.1', manifestUrl: 'https://releases.example/0.4.1.json', revision: 2 };
const recordWith = (fields: Partial<HostRecord>): HostRecord => ({ facts: { agentVersion: '0.4.0' }, agentOrder: order, ...fields }) as HostRecord; // Nothing else is looked at.
const report = (fields: Partial<AgentReport>): AgentReport => ({ phase: 'Fetching', runningVersion: '0.4.0', previousVersion: '', orderRevision: 2, errorCode: '', problem: '', ...fields });
const shown = (record: HostRecord | null, isHeard = true) => deriveAgentUpToDate(hostWith({ version: '0.4.1' }), record, isHeard)[0];

describe('the order of a Host', () => {
  it('is none without a version, and takes the manifest of the Host before that of the control plane', () => {
    const releases = 'https://all.example/{version}/manifest.json';
    expect(deriveAgentOrder(hostWith(), releases, null)).toBeNull();
    expect(deriveAgentOrder(hostWith({ version: '0.4.1' }), null, null)).toBeNull();
    expect(deriveAgentOrder(hostWith({ version: '0.4.1' }), releases, null)).toEqual({ version: '0.4.1', manifestUrl: 'https://all.example/0.4.1/manifest.json' });
    expect(deriveAgentOrder(hostWith({ version: '0.4.1', manifestURL: order.manifestUrl }), releases, null)).toEqual({ version: '0.4.1', manifestUrl: order.manifestUrl });
  });
});

describe('the order of a rollout', () => {
  const rollout = { version: '0.5.0', manifestUrl: 'https://all.example/0.5.0/manifest.json' };
  it('is that of a Host without a version of its own that is not pinned', () => {
    expect(deriveAgentOrder(hostWith(), null, rollout)).toEqual(rollout);
    expect(deriveAgentOrder(hostWith({ ring: 'canary' }), null, rollout)).toEqual(rollout);
    expect(deriveAgentOrder(hostWith({ pinned: true }), null, rollout)).toBeNull();
    expect(deriveAgentOrder(hostWith({ version: '0.4.1', manifestURL: order.manifestUrl }), null, rollout)).toEqual({ version: '0.4.1', manifestUrl: order.manifestUrl });
    expect(deriveAgentOrder(hostWith({ version: '0.4.1' }), null, rollout)).toBeNull();
  });
  it('is shown as that of a Host', () => {
    expect(deriveAgentUpToDate(hostWith(), recordWith({ rolloutOrder: rollout, agentOrder: { ...rollout, revision: 3 } }), true)[0]).toMatchObject({ status: 'False', reason: 'VersionOrdered' });
    expect(deriveAgentUpToDate(hostWith({ pinned: true }), recordWith({ rolloutOrder: rollout, agentOrder: null }), true)).toEqual([]);
  });
});

describe('the condition AgentUpToDate', () => {
  it('is absent without a version', () => expect(deriveAgentUpToDate(hostWith(), recordWith({}), true)).toEqual([]));
  it('is True as soon as the host says that it runs the version', () => {
    expect(shown(recordWith({ facts: { agentVersion: '0.4.1' } as HostRecord['facts'] }))).toMatchObject({ status: 'True', reason: 'VersionRuns' });
  });
  it('says what it waits for', () => {
    expect(shown(null)).toMatchObject({ status: 'False', reason: 'NotEnrolled' });
    expect(shown(recordWith({ agentOrder: null }))).toMatchObject({ status: 'False', reason: 'ReleaseUnknown' });
    expect(shown(recordWith({}), false)).toMatchObject({ status: 'Unknown', reason: 'HostSilent' });
    expect(shown(recordWith({}))).toMatchObject({ status: 'False', reason: 'VersionOrdered' });
    expect(shown(recordWith({ agentReport: report({}) }))).toMatchObject({ status: 'False', reason: 'VersionFetching' });
    expect(shown(recordWith({ agentReport: report({ phase: 'RolledBack', errorCode: 'UPDATE_FAILED', problem: '0.4.1 ended 3 times' }) }))).toMatchObject({ status: 'False', reason: 'UpdateFailed', message: expect.stringContaining('ended 3 times') });
  });
  it('gives a refusal by its code, and by one word when an agent knows codes that are not known here', () => {
    expect(shown(recordWith({ agentReport: report({ phase: 'Refused', errorCode: 'RELEASE_UNSIGNED' }) }))).toMatchObject({ reason: 'ReleaseUnsigned' });
    expect(shown(recordWith({ agentReport: report({ phase: 'Refused', errorCode: 'FROM_THE_FUTURE' }) }))).toMatchObject({ reason: 'ReleaseRefused' });
  });
  it('takes no report on an earlier order for one on this', () => {
    expect(shown(recordWith({ agentReport: report({ phase: 'RolledBack', orderRevision: 1 }) }))).toMatchObject({ reason: 'VersionOrdered' });
  });
});
