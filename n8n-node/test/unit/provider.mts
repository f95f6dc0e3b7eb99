/** Starts tests/support/provider.py, a stand-in for the providers' APIs. The server's own tests use the same one. */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { createInterface, type Interface } from 'node:readline';
import { fileURLToPath } from 'node:url';

export interface AskedProvider {
	method: string;
	path: string;
	query: Record<string, string>;
	body: Record<string, unknown> | null;
	key: string;
}

export const PROVIDER_KEY = 'a-secret-key';
const ROOT = checkout();

/** The offers that the providers' APIs were recorded with. */
export const OFFERS = JSON.parse(
	readFileSync(join(ROOT, 'tests', 'data', 'providers', 'offers.json'), 'utf8'),
) as Record<'vast_offers' | 'runpod_gpus' | 'tensordock_places', object>;

/** The scripts that `lipsync cloud up` sends; the server's tests hold them to its code. */
export const STOCK = JSON.parse(
	readFileSync(join(ROOT, 'tests', 'data', 'providers', 'stock.json'), 'utf8'),
) as {
	source: string;
	image: string;
	script: string;
	onstart: string;
	environment: Record<string, string>;
	cloud_init: string;
	cloud_init_of_an_image: string;
	own_image: string;
};

export class ProviderProcess {
	readonly asked: AskedProvider[] = [];
	private readonly scripted: Array<() => void> = [];

	private constructor(
		readonly url: string,
		private readonly child: ChildProcess,
		lines: Interface,
	) {
		lines.on('line', (line) => {
			const said = JSON.parse(line) as AskedProvider | { scripted: string };
			if ('scripted' in said) this.scripted.shift()?.();
			else this.asked.push(said);
		});
	}

	static async start(): Promise<ProviderProcess> {
		const lipsync = process.env.LIPSYNC_COMMAND ?? join(ROOT, '.venv', 'bin', 'lipsync');
		const python = join(dirname(lipsync), 'python');
		const child = spawn(python, [join(ROOT, 'tests', 'support', 'provider_process.py')], {
			stdio: ['pipe', 'pipe', 'inherit'],
		});
		const lines = createInterface({ input: child.stdout });
		const [url] = (await once(lines, 'line')) as [string];
		return new ProviderProcess(url, child, lines);
	}

	/** The answers to one call, in order. The last answer is repeated. */
	async answers(call: string, ...answers: Array<[number, unknown]>): Promise<void> {
		const done = new Promise<void>((resolve) => this.scripted.push(resolve));
		this.child.stdin?.write(`${JSON.stringify({ call, answers })}\n`);
		await done;
	}

	/** The calls to `path` so far. One extra request makes sure that all earlier log lines have arrived. */
	async calls(method: string, path: string): Promise<AskedProvider[]> {
		await this.answers('GET /nothing', [404, {}]);
		return this.asked.filter((each) => each.method === method && each.path === path);
	}

	stop(): void {
		this.child.stdin?.end();
		this.child.kill();
	}
}

function checkout(): string {
	let folder = dirname(fileURLToPath(import.meta.url));
	while (!existsSync(join(folder, 'pyproject.toml'))) folder = dirname(folder);
	return folder;
}
