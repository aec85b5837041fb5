/** Which events a change of conditions is worth: transitions that a person looks for, two on the way to Running. Pure. */
import type { EventContent } from '#controller/runtime/events.ts';
import type { Condition } from '#controller/runtime/status-patch.ts';

type Conditions = readonly Condition[] | undefined;

export function deriveEvents(before: Conditions, after: Conditions): readonly EventContent[] {
  const events: EventContent[] = [];
  const add = (type: EventContent['type'], action: string, condition: Condition, reason = condition.reason): void => {
    events.push({ type, reason, action, note: condition.message });
  };
  const changed = (type: string, status: Condition['status']): Condition | null => {
    const [old, now] = [find(before, type), find(after, type)];
    return now?.status === status && old?.status !== status ? now : null;
  };
  const reasonChanged = (type: string, status: Condition['status']): Condition | null => {
    const [old, now] = [find(before, type), find(after, type)];
    return now?.status === status && (old?.status !== status || old.reason !== now.reason) ? now : null;
  };

  const accepted = reasonChanged('Accepted', 'False');
  if (accepted !== null) add('Warning', 'Validate', accepted);
  const scheduled = changed('Scheduled', 'True');
  if (scheduled !== null) add('Normal', 'Schedule', scheduled, 'Scheduled');
  const unscheduled = reasonChanged('Scheduled', 'False');
  if (unscheduled !== null && unscheduled.reason !== 'NotAccepted') add('Warning', 'Schedule', unscheduled);
  const running = changed('Running', 'True');
  // Coming back from silence is no start.
  if (running !== null && find(before, 'Running')?.status !== 'Unknown') add('Normal', 'Start', running, 'Started');
  const stopped = changed('Running', 'False');
  if (stopped !== null && find(before, 'Running')?.status === 'True') add('Normal', 'Stop', stopped, 'Stopped');
  const problem = reasonChanged('Provisioned', 'False');
  if (problem !== null && !['Provisioning', 'NotScheduled', 'WaitingForHost', 'Deleting'].includes(problem.reason)) {
    add('Warning', 'Provision', problem);
  }
  const ordered = reasonChanged('SiteOverride', 'True');
  if (ordered !== null) add('Warning', 'Override', ordered);
  const released = changed('SiteOverride', 'False');
  if (released !== null && find(before, 'SiteOverride') !== undefined) add('Normal', 'Override', released);
  const looping = changed('CrashLooping', 'True');
  if (looping !== null) add('Warning', 'Restart', looping);
  return events;
}

function find(conditions: Conditions, type: string): Condition | undefined {
  return conditions?.find((condition) => condition.type === type);
}
