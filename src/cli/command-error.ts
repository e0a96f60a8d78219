// How a command that fails says so: one sentence on stderr, or one object on stdout with --json.

/** What a command prints on stdout with --json when it fails. */
export interface CommandErrorJson {
  readonly error: {
    readonly code: string;
    readonly message: string;
    readonly param: string | null;
    readonly suggestions: readonly string[];
    readonly exit_code: number;
  };
}

export function errorJson(
  code: string,
  message: string,
  exitCode: number,
  suggestions: readonly string[] = [],
): CommandErrorJson {
  return { error: { code, message, param: null, suggestions, exit_code: exitCode } };
}

export function printError({ error }: CommandErrorJson, asJson: boolean): void {
  if (asJson) {
    process.stdout.write(`${JSON.stringify({ error }, null, 2)}\n`);
  } else if (error.code === 'INTERRUPTED') {
    process.stderr.write('Interrupted.\n');
  } else {
    process.stderr.write(`Error: ${error.message}\n`);
    for (const suggestion of error.suggestions) process.stderr.write(`  ${suggestion}\n`);
  }
}
