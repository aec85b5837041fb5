/** Tables for people, borderless, as kubectl prints. */
import Table from 'cli-table3';

export function renderTable(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const none = { top: '', 'top-mid': '', 'top-left': '', 'top-right': '', bottom: '', 'bottom-mid': '', 'bottom-left': '', 'bottom-right': '', left: '', 'left-mid': '', mid: '', 'mid-mid': '', right: '', 'right-mid': '', middle: '   ' };
  const table = new Table({ head: [...head], chars: none, style: { head: [], border: [], 'padding-left': 0, 'padding-right': 0 } });
  table.push(...rows.map((row) => row.map(printable)));
  return table
    .toString()
    .split('\n')
    .map((line) => line.trimEnd())
    .join('\n');
}

/** Words of others (problems, names in files) may hold bytes that a terminal would obey. */
function printable(text: string): string {
  // eslint-disable-next-line no-control-regex -- these are what is to go
  return text.replaceAll(/[\u0000-\u001f\u007f-\u009f]/g, '?');
}
