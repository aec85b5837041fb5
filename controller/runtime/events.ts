/**
 * Events of events.k8s.io/v1, on transitions only. An event is a courtesy: it is written after the status
 * that it is about, and its loss changes nothing.
 */
import type { KubernetesApi, KubernetesObject, Resource } from './kubernetes-api.ts';
import { formatMicroTime } from './leader-election.ts';
import { errorFields, type Log } from './log.ts';
import { apiVersionOf } from './status-patch.ts';
import type { Time } from './time.ts';

const eventResource: Resource = { group: 'events.k8s.io', version: 'v1', plural: 'events', kind: 'Event', isNamespaced: true };
/** Bound of the API server. Source: Kubernetes API reference, Event v1, field note. */
const noteMax = 1024;

export interface EventContent {
  readonly type: 'Normal' | 'Warning';
  /** CamelCase, why. */
  readonly reason: string;
  /** CamelCase, what was done. */
  readonly action: string;
  readonly note: string;
}

export interface EventRecorder {
  /** Never throws; resolves when written or given up. */
  record(resource: Resource, object: KubernetesObject, content: EventContent): Promise<void>;
}

export function createEventRecorder(deps: {
  readonly api: KubernetesApi;
  /** Such as `nkudo.dev/controller`. */
  readonly controller: string;
  readonly instance: string;
  readonly time: Time;
  readonly log: Log;
  /** Unique suffix for names. */
  readonly uuid: () => string;
}): EventRecorder {
  return {
    record: async (resource, object, content) => {
      const namespace = object.metadata.namespace ?? 'default';
      const name = `${object.metadata.name.slice(0, 200)}.${deps.uuid().slice(0, 18)}`;
      const body = {
        apiVersion: 'events.k8s.io/v1',
        kind: 'Event',
        metadata: { name, namespace },
        eventTime: formatMicroTime(deps.time.nowMs()),
        reportingController: deps.controller,
        reportingInstance: deps.instance.slice(0, 128),
        action: content.action,
        reason: content.reason,
        type: content.type,
        note: content.note.slice(0, noteMax),
        regarding: {
          apiVersion: apiVersionOf(resource),
          kind: resource.kind,
          name: object.metadata.name,
          namespace: object.metadata.namespace,
          uid: object.metadata.uid,
          resourceVersion: object.metadata.resourceVersion,
        },
      };
      try {
        await deps.api.create(eventResource, { namespace, name }, body);
      } catch (error) {
        deps.log.debug({ reason: content.reason, ...errorFields(error) }, 'event not written');
      }
    },
  };
}
