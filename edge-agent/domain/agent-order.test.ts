import { expect, it } from 'vitest';
import { decideAgent, encodeAgentOrderRecord, parseAgentOrderRecord, type AgentLook, type AgentOrderRecord } from './agent-order.ts';

const record: AgentOrderRecord = { order: { version: '0.4.1', manifestUrl: 'https://releases.example/manifest.json', revision: 3 }, isSelected: false, refusal: null };
const look: AgentLook = { runningVersion: '0.4.0', previousVersion: null, trialVersion: null, failedReason: null };

it('installs a version that is ordered, and says so once it runs', () => {
  expect(decideAgent(record, look)).toMatchObject({ action: 'install', report: { phase: 'Fetching', orderRevision: 3 } });
  expect(decideAgent({ ...record, isSelected: true }, { ...look, runningVersion: '0.4.1' })).toMatchObject({ action: 'none', report: { phase: 'Current' } });
});

it('says nothing of an order that was withdrawn', () => {
  expect(decideAgent({ ...record, order: { version: '', manifestUrl: '', revision: 4 } }, look)).toEqual({ action: 'none', report: null });
});

it('waits for the launcher once it was asked, and installs again when the agent was killed just before that', () => {
  expect(decideAgent({ ...record, isSelected: true }, { ...look, trialVersion: '0.4.1' })).toMatchObject({ action: 'none', report: { phase: 'Starting' } });
  expect(decideAgent({ ...record, isSelected: true }, look)).toMatchObject({ action: 'install' });
});

it('is done with a version that did not get ready, also when the mark of the launcher is gone, and with one that was refused', () => {
  const over = decideAgent({ ...record, isSelected: true }, { ...look, failedReason: 'was not ready within 90 s' });
  expect(over).toMatchObject({ action: 'conclude', refusal: { code: 'UPDATE_FAILED', message: '0.4.1 was not ready within 90 s' } });
  const refusal = over.action === 'conclude' ? over.refusal : null;
  expect(decideAgent({ ...record, isSelected: true, refusal }, look)).toMatchObject({ action: 'none', report: { phase: 'RolledBack', problem: '0.4.1 was not ready within 90 s' } });
  expect(decideAgent({ ...record, refusal: { code: 'RELEASE_UNSIGNED', message: 'no' } }, look)).toMatchObject({ action: 'none', report: { phase: 'Refused', errorCode: 'RELEASE_UNSIGNED' } });
});

it('takes the mark of an earlier attempt for none of this one', () => {
  expect(decideAgent(record, { ...look, failedReason: 'ended 3 times' })).toMatchObject({ action: 'install' });
});

it('is remembered whole, and what can not be read counts as none', () => {
  expect(parseAgentOrderRecord(encodeAgentOrderRecord(record))).toEqual(record);
  for (const text of [undefined, '', '{}', '{"order":{"version":"../x","manifestUrl":"file:///","revision":1},"isSelected":true}']) expect(parseAgentOrderRecord(text)).toBeNull();
});
