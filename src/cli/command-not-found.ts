// oclif's hook for a command that does not exist, or for words behind one that takes none: a sentence and exit code 2.
import { ExitError } from '@oclif/core/errors';
import type { Hook } from '@oclif/core/hooks';
import { errorJson, printError } from './command-error.js';
import { nearest } from './nearest.js';

/** What other programs have as commands or short flags. */
const flagFor: Readonly<Record<string, string>> = {
  help: '--help',
  '-h': '--help',
  version: '--version',
  '-v': '--version',
  '-V': '--version',
};

const notFound: Hook.CommandNotFound = async ({ id, argv = [], config }) => {
  const words = id.split(':');
  const known = words
    .map((_, i) => words.slice(0, i + 1).join(':'))
    .findLast((name) => config.findCommand(name));
  const typed = words.join(' ');
  const message =
    known === undefined
      ? `There is no command \`${typed}\`.`
      : `\`${known.replaceAll(':', ' ')}\` takes no argument but received \`${words.slice(known.split(':').length).join(' ')}\`.`;
  const meant =
    known === undefined
      ? (flagFor[typed] ??
        nearest(
          typed,
          config.commandIDs.map((name) => name.replaceAll(':', ' ')),
        ))
      : null;
  const topic = known?.replaceAll(':', ' ') ?? (config.findTopic(words[0]!) ? words[0]! : '');
  const help = ['vllm-pd', topic, '--help'].filter(Boolean).join(' ');
  const suggestions = [...(meant ? [`Did you mean \`${meant}\`?`] : []), `See \`${help}\`.`];
  printError(errorJson('INVALID_ARGUMENT', message, 2, suggestions), argv.includes('--json'));
  throw new ExitError(2);
};

export default notFound;
