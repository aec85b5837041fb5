import { describe, expect, it } from 'vitest';
import { parseAuditConfig, parseMigrateConfig, parseServeConfig } from './config.ts';

const urls = { NKUDO_DATABASE_URL: 'postgres://nkudo_app:p@h/db', NKUDO_DATABASE_SYSTEM_URL: 'postgres://nkudo_system:s%40s@h/db' };

describe('config', () => {
  it('needs nothing but the databases and fills in the rest', () => {
    const config = parseServeConfig({ ...urls, POD_NAME: '' }, '42');
    expect(config).toMatchObject({ edgeListen: '0.0.0.0:8443', namespace: 'nkudo-system', heartbeatIntervalMs: 10_000, pollIntervalMs: 2_000, advertise: null, readyFile: null });
    expect(config.replica).toMatch(/-42$/);
    expect(Object.isFrozen(config)).toBe(true);
  });

  it('serves HTTPS on the address that gRPC has, so that what is kept on one interface is kept there whole', () => {
    expect(parseServeConfig(urls, '1').apiListen).toBe('0.0.0.0:8445');
    expect(parseServeConfig({ ...urls, NKUDO_FLEET_LISTEN: '127.0.0.1:0' }, '1').apiListen).toBe('127.0.0.1:0');
    expect(parseServeConfig({ ...urls, NKUDO_FLEET_LISTEN: '[::1]:9444' }, '1').apiListen).toBe('[::1]:8445');
    expect(parseServeConfig({ ...urls, NKUDO_FLEET_LISTEN: '127.0.0.1:0', NKUDO_API_LISTEN: '127.0.0.2:9445' }, '1').apiListen).toBe('127.0.0.2:9445');
  });

  it('keeps its name in a pod, so that a restarted container leads on', () => {
    expect(parseServeConfig({ ...urls, POD_NAME: 'nkudo-0' }, '42').replica).toBe('nkudo-0');
  });

  it.each([
    ['NKUDO_DATABASE_URL', '', 'NKUDO_DATABASE_URL must be set'],
    ['NKUDO_DATABASE_URL', 'mysql://secret@h', 'NKUDO_DATABASE_URL must be a URL that begins with postgres://'],
    ['NKUDO_EDGE_LISTEN', '8443', 'NKUDO_EDGE_LISTEN must be host:port with a port from 0 to 65535'],
    ['NKUDO_EDGE_LISTEN', '127.0.0.1:65536', 'NKUDO_EDGE_LISTEN must be host:port with a port from 0 to 65535'],
    ['NKUDO_ADVERTISE', 'a b:1', 'NKUDO_ADVERTISE must be host:port with a port from 0 to 65535'],
    ['NKUDO_HEARTBEAT_INTERVAL_MS', '1e3', 'NKUDO_HEARTBEAT_INTERVAL_MS must be a whole number of milliseconds from 100 to 300000'],
    ['NKUDO_HEARTBEAT_INTERVAL_MS', '0', 'NKUDO_HEARTBEAT_INTERVAL_MS must be a whole number of milliseconds from 100 to 300000'],
    ['NKUDO_LOG_LEVEL', 'loud', 'NKUDO_LOG_LEVEL must be one of trace, debug, info, warn, error, fatal'],
    ['NKUDO_LOG_RETENTION_DAYS', '0', 'NKUDO_LOG_RETENTION_DAYS must be a whole number of days from 1 to 3650'],
    ['NKUDO_DATABASE_CHAINER_URL', 'secret', 'NKUDO_DATABASE_CHAINER_URL must be a URL that begins with postgres://'],
    ['NKUDO_NAMESPACE', 'Not A Name', 'NKUDO_NAMESPACE must be the name of a namespace'],
  ])('refuses %s=%j with one sentence that does not quote the value', (name, value, sentence) => {
    expect(() => parseServeConfig({ ...urls, [name]: value }, '1')).toThrow(sentence);
    expect(() => parseServeConfig({ ...urls, [name]: value }, '1')).not.toThrow(/secret/);
  });

  it('takes the passwords of the roles from their URLs when they have no variable of their own', () => {
    const admin = { NKUDO_DATABASE_ADMIN_URL: 'postgres://postgres@h/db' };
    expect(parseMigrateConfig({ ...admin, ...urls })).toMatchObject({ appPassword: 'p', systemPassword: 's@s' });
    expect(parseMigrateConfig({ ...admin, ...urls, NKUDO_DATABASE_APP_PASSWORD: 'own' }).appPassword).toBe('own');
    expect(() => parseMigrateConfig(admin)).toThrow('NKUDO_DATABASE_APP_PASSWORD must be set, or NKUDO_DATABASE_URL must hold the password');
  });

  it('leaves the chainer to be derived unless it has a URL or a password of its own', () => {
    expect(parseServeConfig(urls, '1')).toMatchObject({ databaseChainerUrl: null, logRetentionDays: 14, auditCheckpointIntervalMs: 60_000 });
    const admin = { NKUDO_DATABASE_ADMIN_URL: 'postgres://postgres@h/db' };
    expect(parseMigrateConfig({ ...admin, ...urls }).chainerPassword).toBeUndefined();
    expect(parseMigrateConfig({ ...admin, ...urls, NKUDO_DATABASE_CHAINER_URL: 'postgres://nkudo_chainer:c@h/db' }).chainerPassword).toBe('c');
    expect(parseAuditConfig({ NKUDO_DATABASE_SYSTEM_URL: urls.NKUDO_DATABASE_SYSTEM_URL })).toMatchObject({ databaseChainerUrl: null, namespace: 'nkudo-system' });
    expect(() => parseAuditConfig({})).toThrow('NKUDO_DATABASE_CHAINER_URL must be set, or NKUDO_DATABASE_SYSTEM_URL to derive it from');
  });
});
