import { describe, expect, test } from 'vitest';
import { microVMId } from '#api/model/ids.ts';
import { deriveGuestPort } from './guest-port.ts';
import { elementsOf, noRules, parseRules, renderChange, renderRemoval, type RuleElement } from './rules.ts';

const id = microVMId('00000000-0000-4000-8000-000000000001');
const port = deriveGuestPort(id, {
  name: 'lan',
  kind: 'nat',
  mac: '52:54:00:00:00:01',
  address: '10.0.0.5/24',
  gateway: '10.0.0.1',
  ports: [{ name: 'web', protocol: 'tcp', hostPort: 8080, guestPort: 80 }],
});
const { tap } = port;
const noChange = { remove: [], add: [], refuseStrangers: false };

/** What nft 1.0.6 lists for these elements. */
const listing = (options: { readonly layout: boolean; readonly strangers: boolean }): readonly unknown[] => [
  {
    nftables: [
      { metainfo: { version: '1.0.6' } },
      { set: { family: 'bridge', name: 'macs', table: 'nkudo', type: ['ifname', 'ether_addr'], elem: [{ concat: [tap, '52:54:00:00:00:01'] }] } },
      { set: { family: 'bridge', name: 'addresses', table: 'nkudo', type: ['ifname', 'ipv4_addr'], elem: [{ concat: [tap, '10.0.0.5'] }] } },
      { set: { family: 'bridge', name: 'open', table: 'nkudo', type: 'ifname' } },
      ...(options.layout ? [{ chain: { family: 'bridge', table: 'nkudo', name: 'layout_1', handle: 1 } }] : []),
    ],
  },
  {
    nftables: [
      { set: { family: 'inet', name: 'guests', table: 'nkudo', type: 'ipv4_addr', elem: [{ elem: { val: '10.0.0.5', comment: tap } }] } },
      { map: { family: 'inet', name: 'forwards', table: 'nkudo', type: ['inet_proto', 'inet_service'], map: 'ipv4_addr . inet_service', elem: [[{ elem: { val: { concat: ['tcp', 8080] }, comment: tap } }, { concat: ['10.0.0.5', 80] }]] } },
      ...(options.layout ? [{ chain: { family: 'inet', table: 'nkudo', name: 'layout_1', handle: 1 } }] : []),
      ...(options.strangers ? [{ rule: { family: 'inet', table: 'nkudo', chain: 'strangers', handle: 9, expr: [{ drop: null }] } }] : []),
    ],
  },
];
const order = (elements: readonly RuleElement[]): readonly string[] => elements.map((element) => JSON.stringify([element.set, element.key, element.value, element.tap])).sort();

describe('rules of guests', () => {
  test('reads back from nft exactly the rights that a network needs', () => {
    const listed = parseRules(listing({ layout: true, strangers: false }));
    expect(listed).toMatchObject({ hasLayout: true, refusesStrangers: false });
    expect(order(listed.elements)).toEqual(order(elementsOf(port)));
    expect(parseRules(listing({ layout: false, strangers: true }))).toMatchObject({ hasLayout: false, refusesStrangers: true });
    expect(parseRules([{}, null, { nftables: [{ set: { name: 'foreign', elem: ['x'] } }, 7] }])).toEqual(noRules);
  });

  test('writes nothing when there is nothing to change, and only the difference otherwise', () => {
    const listed = parseRules(listing({ layout: true, strangers: false }));
    expect(renderChange(listed, noChange, 'wt0')).toBe('');
    const forward = elementsOf(port).filter(({ set }) => set === 'forwards');
    expect(renderChange(listed, { ...noChange, remove: forward }, 'wt0')).toBe('delete element inet nkudo forwards { tcp . 8080 }\n');
    expect(renderChange(listed, { ...noChange, add: forward }, 'wt0')).toBe(`add element inet nkudo forwards { tcp . 8080 comment "${tap}" : 10.0.0.5 . 80 }\n`);
    expect(renderChange(listed, { ...noChange, refuseStrangers: true }, 'wt0')).toContain('add rule inet nkudo strangers drop');
  });

  test('carries all rights over when it replaces the chains of an older version', () => {
    const text = renderChange(parseRules(listing({ layout: false, strangers: true })), noChange, 'wt0');
    expect(text.startsWith(renderRemoval())).toBe(true);
    for (const { set, key } of elementsOf(port)) expect(text).toContain(`nkudo ${set} { ${key}`);
    expect(text).toContain('add rule inet nkudo strangers drop');
  });
});
