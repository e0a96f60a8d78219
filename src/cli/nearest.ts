// What somebody who mistyped a name may have meant.

/** The known name that takes the fewest edits; null where all are further away than a slip of the finger. */
export function nearest(typed: string, known: readonly string[]): string | null {
  const maxEdits = Math.max(1, Math.floor(typed.length / 4));
  const ranked = known
    .map((name) => ({ name, numEdits: editDistance(typed, name) }))
    .sort((a, b) => a.numEdits - b.numEdits);
  const [best] = ranked;
  return best && best.numEdits <= maxEdits ? best.name : null;
}

/** Characters to insert, remove, replace or swap with their neighbour (optimal string alignment). */
function editDistance(a: string, b: string): number {
  const rows: number[][] = [Array.from({ length: b.length + 1 }, (_, j) => j)];
  for (let i = 1; i <= a.length; i += 1) {
    const row = [i];
    for (let j = 1; j <= b.length; j += 1) {
      const replaced = rows[i - 1]![j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1);
      const isSwap = i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1];
      const swapped = isSwap ? rows[i - 2]![j - 2]! + 1 : replaced;
      row.push(Math.min(replaced, swapped, rows[i - 1]![j]! + 1, row[j - 1]! + 1));
    }
    rows.push(row);
  }
  return rows[a.length]![b.length]!;
}
