/** What a NetBird management server does, as far as the adapter builds on it. Expected values are in this file only. */
import { randomUUID } from 'node:crypto';
import { expect, it } from 'vitest';
import { raw, rawId } from './raw-api.ts';
import { describeOnTargets } from './targets.ts';

describeOnTargets('a management server', (target) => {
  const name = (): string => `conformance-${randomUUID()}`;
  const policy = (group: string, change: object = {}): object => ({
    name: name(),
    description: 'd',
    enabled: true,
    source_posture_checks: [],
    rules: [{ name: 'r', enabled: true, action: 'accept', bidirectional: false, protocol: 'all', sources: [group], destinations: [group] }],
    ...change,
  });

  it('answers 401 with message and code to a token that it does not know, and takes Bearer too', async () => {
    const answer = await raw({ ...target, token: 'nbp_wrong' }, 'GET', '/api/groups');
    expect(answer).toMatchObject({ status: 401, body: { code: 401 } });
    const response = await fetch(`${target.managementUrl}/api/groups`, { headers: { authorization: `Bearer ${target.token}` } });
    expect(response.status).toBe(200);
    await response.arrayBuffer();
  });

  it('answers 404 to what is missing, except for the delete of a group: 400', async () => {
    const missing = 'c'.repeat(20);
    for (const [method, path, status] of [
      ['DELETE', `/api/groups/${missing}`, 400],
      ['GET', `/api/groups/${missing}`, 404],
      ['GET', `/api/groups?name=${missing}`, 404],
      ['DELETE', `/api/policies/${missing}`, 404],
      ['DELETE', `/api/setup-keys/${missing}`, 404],
      ['DELETE', `/api/peers/${missing}`, 404],
      ['GET', `/api/peers/${missing}`, 404],
      ['DELETE', `/api/networks/${missing}`, 404],
      ['GET', `/api/networks/${missing}`, 404],
    ] as const) {
      const answer = await raw(target, method, path);
      expect({ method, path, status: answer.status, code: answer.body['code'] }).toEqual({ method, path, status, code: status });
    }
  });

  it('keeps group names unique (409) and gives null for the lists of an empty group', async () => {
    const group = name();
    const created = await raw(target, 'POST', '/api/groups', { name: group });
    expect(created).toMatchObject({ status: 200, body: { name: group, peers: null, resources: null, peers_count: 0 } });
    expect((await raw(target, 'POST', '/api/groups', { name: group })).status).toBe(409);
    expect((await raw(target, 'DELETE', `/api/groups/${String(created.body['id'])}`)).status).toBe(200);
  });

  it('takes the same name twice for policies, setup keys and networks', async () => {
    const group = await rawId(target, '/api/groups', { name: name() });
    const key = { name: name(), type: 'one-off', expires_in: 60, auto_groups: [group], usage_limit: 1, ephemeral: false };
    const made: string[] = [];
    for (const [path, body] of [
      ['/api/policies', policy(group)],
      ['/api/setup-keys', key],
      ['/api/networks', { name: name(), description: 'd' }],
    ] as const) {
      for (let round = 0; round < 2; round += 1) made.push(`${path}/${await rawId(target, path, body)}`);
    }
    expect(new Set(made).size).toBe(6);
    for (const path of made) expect((await raw(target, 'DELETE', path)).status).toBe(200);
    expect((await raw(target, 'DELETE', `/api/groups/${group}`)).status).toBe(200);
  });

  it('refuses to delete a group that a policy, a key, a router or a resource uses', async () => {
    const group = await rawId(target, '/api/groups', { name: name() });
    const network = await rawId(target, '/api/networks', { name: name(), description: 'd' });
    const parts = [
      ['/api/policies', policy(group)],
      ['/api/setup-keys', { name: name(), type: 'one-off', expires_in: 60, auto_groups: [group], usage_limit: 1 }],
      [`/api/networks/${network}/routers`, { peer_groups: [group], metric: 9999, masquerade: true, enabled: true }],
      [`/api/networks/${network}/resources`, { name: name(), description: 'd', address: '10.111.0.0/24', enabled: true, groups: [group] }],
    ] as const;
    for (const [path, body] of parts) {
      const id = await rawId(target, path, body);
      expect({ path, status: (await raw(target, 'DELETE', `/api/groups/${group}`)).status }).toEqual({ path, status: 400 });
      expect((await raw(target, 'DELETE', `${path}/${id}`)).status).toBe(200);
    }
    expect((await raw(target, 'DELETE', `/api/networks/${network}`)).status).toBe(200);
    expect((await raw(target, 'DELETE', `/api/groups/${group}`)).status).toBe(200);
  });

  it('shows the value of a setup key once, masked later, and takes 60 s and ephemeral false; a wrong group or type is 422', async () => {
    const group = await rawId(target, '/api/groups', { name: name() });
    const key = { name: name(), type: 'one-off', expires_in: 60, auto_groups: [group], usage_limit: 1, ephemeral: false };
    const created = await raw(target, 'POST', '/api/setup-keys', key);
    const value = String(created.body['key']);
    expect(value).toMatch(/^[0-9A-F]{8}-([0-9A-F]{4}-){3}[0-9A-F]{12}$/);
    const id = String(created.body['id']);
    const again = await raw(target, 'GET', `/api/setup-keys/${id}`);
    expect(again.body['key']).toBe(`${value.slice(0, 5)}****`);
    expect(again.body).toMatchObject({ valid: true, state: 'valid', ephemeral: false, usage_limit: 1, auto_groups: [group] });
    expect((await raw(target, 'POST', '/api/setup-keys', { ...key, auto_groups: ['c'.repeat(20)] })).status).toBe(422);
    expect((await raw(target, 'POST', '/api/setup-keys', { ...key, type: 'other' })).status).toBe(422);
    await raw(target, 'DELETE', `/api/setup-keys/${id}`);
    await raw(target, 'DELETE', `/api/groups/${group}`);
  });

  it('drops unknown groups of a policy without a word, and takes every protocol in one direction', async () => {
    const group = await rawId(target, '/api/groups', { name: name() });
    for (const protocol of ['all', 'tcp', 'udp', 'icmp']) {
      const rule = { name: 'r', enabled: true, action: 'accept', bidirectional: false, protocol, sources: [group, 'c'.repeat(20)], destinations: [group] };
      const answer = await raw(target, 'POST', '/api/policies', policy(group, { rules: [protocol === 'tcp' ? { ...rule, ports: ['22'] } : rule] }));
      expect(answer.status).toBe(200);
      const [saved] = answer.body['rules'] as { sources: { id: string }[]; destinations: { id: string }[]; bidirectional: boolean; protocol: string }[];
      expect({ protocol: saved?.protocol, isBidirectional: saved?.bidirectional, sources: saved?.sources.map(({ id }) => id), destinations: saved?.destinations.map(({ id }) => id) }).toEqual({
        protocol,
        isBidirectional: false,
        sources: [group],
        destinations: [group],
      });
      await raw(target, 'DELETE', `/api/policies/${String(answer.body['id'])}`);
    }
    await raw(target, 'DELETE', `/api/groups/${group}`);
  });

  it('deletes a network with its parts, keeps resource names unique (422), and lists the resource in its group', async () => {
    const groupName = name();
    const group = await rawId(target, '/api/groups', { name: groupName });
    const network = await rawId(target, '/api/networks', { name: name(), description: 'd' });
    const resource = { name: name(), description: 'd', address: '10.112.0.0/24', enabled: true, groups: [group] };
    const id = await rawId(target, `/api/networks/${network}/resources`, resource);
    await rawId(target, `/api/networks/${network}/routers`, { peer_groups: [group], metric: 9999, masquerade: true, enabled: true });
    expect((await raw(target, 'POST', `/api/networks/${network}/resources`, resource)).status).toBe(422);
    expect((await raw(target, 'GET', `/api/groups/${group}`)).body['resources']).toEqual([{ id, type: 'subnet' }]);
    // A PUT without the resources takes them out of the group; one with them keeps them.
    expect((await raw(target, 'PUT', `/api/groups/${group}`, { name: groupName, peers: [], resources: [{ id, type: 'subnet' }] })).body['resources']).toEqual([{ id, type: 'subnet' }]);
    expect((await raw(target, 'DELETE', `/api/networks/${network}`)).status).toBe(200);
    expect((await raw(target, 'GET', `/api/groups/${group}`)).body['resources']).toBeNull();
    expect((await raw(target, 'DELETE', `/api/groups/${group}`)).status).toBe(200);
  });
});
