/** `nkudo-controller remaining`: what goes on when the control plane is uninstalled, for the person who does it. Reads only. */
import { field, type KubernetesQuestions } from './adapters/kubernetes/questions.ts';

const kinds = [
  { plural: 'sites', name: 'sites' },
  { plural: 'hosts', name: 'hosts' },
  { plural: 'microvms', name: 'microVMs' },
] as const;

/** Objects of a kind in all namespaces; null when it can't be told. */
async function count(questions: KubernetesQuestions, plural: string): Promise<number | null> {
  // One object, and how many more there are: a whole list of a fleet would be megabytes.
  const { status, body } = await questions.get(`/apis/nkudo.dev/v1alpha1/${plural}?limit=1`);
  const items = field(body, 'items');
  if (status !== 200 || !Array.isArray(items)) return null;
  const more = field(field(body, 'metadata'), 'remainingItemCount');
  return items.length + (typeof more === 'number' ? more : 0);
}

/** The sentences, in the order in which they are to be read. */
export async function describeRemaining(questions: KubernetesQuestions): Promise<readonly string[]> {
  const counts = await Promise.all(kinds.map(async ({ plural, name }) => ({ name, found: await count(questions, plural).catch(() => null) })));
  const [, , microvms] = counts;
  const listed = counts.map(({ name, found }) => `${found ?? 'an unknown number of'} ${name}`).join(', ');
  return [
    `n-kudo's controller is being removed. What stays: ${listed}.`,
    microvms?.found === 0
      ? 'No microVM is left on any host.'
      : 'The microVMs go on running on their hosts, and nobody changes or deletes them until the controller is back. To be rid of them, delete them before you uninstall.',
    'The definitions with all objects, the Secrets of the authority and the database stay; install again under the same name and namespace, and everything is found again.',
  ];
}
