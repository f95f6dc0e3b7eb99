/** Words for a shell, and the way a script gets into a container. */

/** The variable that carries a script into its container, so that no provider has to quote a whole script. */
export const START_SCRIPT = 'START_SCRIPT';

/** The program of a container whose variable START_SCRIPT has a script. */
export const RUN_START_SCRIPT = ['bash', '-c', `eval "$${START_SCRIPT}"`];

/** One word for a shell. */
export function quoted(word: string): string {
	return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replace(/'/g, `'"'"'`)}'`;
}

export function joined(words: string[]): string {
	return words.map(quoted).join(' ');
}
