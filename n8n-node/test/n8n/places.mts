/** The paths of programs and data, for tests that start real programs. */
import { existsSync, readdirSync } from 'node:fs';
import { createServer } from 'node:net';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

function checkout(): string {
	let folder = dirname(fileURLToPath(import.meta.url));
	while (!existsSync(join(folder, 'pyproject.toml'))) folder = dirname(folder);
	return folder;
}

export const ROOT = checkout();
export const PACKAGE = join(ROOT, 'n8n-node');
export const SAMPLES = join(ROOT, 'server', 'lipsync_server', 'samples');
/** The folders that install.sh fills. The two variables name folders that exist already. */
export const N8N_2 = process.env.LIPSYNC_N8N_DIR ?? join(ROOT, '.cache', 'n8n');
export const N8N_1 = process.env.LIPSYNC_N8N_1_DIR ?? join(ROOT, '.cache', 'n8n-1');
export const CHROMIUM =
	process.env.CHROMIUM ??
	['/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'].find((path) =>
		existsSync(path),
	) ??
	'/usr/bin/chromium';
export const LIPSYNC = process.env.LIPSYNC_COMMAND ?? join(ROOT, '.venv', 'bin', 'lipsync');

const FIRST_PORT = 20_000;
/** Ports of one test file. Files run side by side, so each has its own. */
const N_PORTS = 2_000;
const given = new Set<number>();

/** The place of this test file among all, by name; the last place for another program. */
function place(): number {
	const program = process.argv[1] ?? '';
	const files = readdirSync(dirname(fileURLToPath(import.meta.url))).filter((name) =>
		name.endsWith('.test.mjs'),
	);
	const found = files.sort().indexOf(basename(program));
	return found < 0 ? files.length : found;
}

/**
 * A free port of 127.0.0.1 that no other program gets before the caller listens on it. The system assigns ports from
 * 32768 upwards, so only a program that names a lower port can get it.
 */
export async function freePort(): Promise<number> {
	for (;;) {
		const port = FIRST_PORT + N_PORTS * place() + Math.floor(Math.random() * N_PORTS);
		if (given.has(port) || !(await isFree(port))) continue;
		given.add(port);
		return port;
	}
}

async function isFree(port: number): Promise<boolean> {
	return await new Promise((resolve) => {
		const server = createServer();
		server.once('error', () => resolve(false));
		server.listen(port, '127.0.0.1', () => server.close(() => resolve(true)));
	});
}

/** Call `look` until it returns a value other than undefined, and return that value. Throws `what` after `seconds`. */
export async function eventually<T>(
	what: string | (() => string),
	look: () => Promise<T | undefined> | T | undefined,
	seconds = 90,
): Promise<T> {
	const end = Date.now() + seconds * 1000;
	for (;;) {
		const found = await look();
		if (found !== undefined) return found;
		if (Date.now() > end)
			throw new Error(`${typeof what === 'string' ? what : what()}: not within ${seconds} s`);
		await new Promise((resolve) => setTimeout(resolve, 200));
	}
}
