/** A real n8n of one version, a real Lipsync server and a folder of pictures and recordings, for the cases. */
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { GoogleStandIn, serviceAccount } from './google.mjs';
import { LipsyncServer, TOKEN } from './lipsync.mjs';
import { LocalWeb } from './local.mjs';
import { N8n, type CredentialSpec } from './n8n.mjs';
import { SAMPLES } from './places.mjs';

const LONG_S = 40;
/**
 * A loopback address without a server. The system never assigns a port this small, so no server of these tests
 * gets it.
 */
const NOBODY = 'http://127.0.0.1:2';

/** An account at YouTube whose token n8n need not fetch first. */
const YOUTUBE: CredentialSpec = {
	id: 'youtube',
	name: 'YouTube',
	type: 'youTubeOAuth2Api',
	data: {
		clientId: 'id',
		clientSecret: 'secret',
		oauthTokenData: { access_token: 'stand-in', token_type: 'Bearer', expires_in: 3600 },
	},
};

export class Stage {
	private constructor(
		private readonly home: string,
		readonly server: LipsyncServer,
		readonly n8n: N8n,
		readonly web: LocalWeb,
		private readonly standIn: GoogleStandIn | undefined,
	) {}

	/** The address of `NOBODY`, for a credential of a server that is not there. */
	readonly nobody = NOBODY;

	/** Google's part is played by a stand-in, to which n8n's own nodes upload. */
	static async withGoogle(program: string, env: NodeJS.ProcessEnv = {}): Promise<Stage> {
		const google = await GoogleStandIn.start(mkdtempSync(join(tmpdir(), 'lipsync-google-')));
		const proxy = { HTTPS_PROXY: google.url, NODE_EXTRA_CA_CERTS: google.authority };
		return await Stage.set(program, { ...proxy, ...env }, google);
	}

	/** Install the node and start the server. n8n itself is not started yet. */
	static async set(
		program: string,
		env: NodeJS.ProcessEnv = {},
		google?: GoogleStandIn,
	): Promise<Stage> {
		const home = mkdtempSync(join(tmpdir(), 'lipsync-n8n-'));
		const server = await LipsyncServer.start(join(home, 'lipsync'), '--allow-private-urls');
		const n8n = await N8n.install(join(home, 'n8n'), env, program);
		fillFiles(n8n.files);
		const web = await LocalWeb.start({
			'/portrait.jpg': join(n8n.files, 'one/portrait.jpg'),
			'/no-picture.jpg': join(n8n.files, 'two/1.jpg'),
			'/speech.wav': join(n8n.files, 'one/speech.wav'),
		});
		return new Stage(home, server, n8n, web, google);
	}

	/** Start n8n and save the credentials of the tests in it. */
	async open(): Promise<void> {
		await this.n8n.start();
		await this.n8n.addCredentials([
			credential('lipsync-good', `${this.server.url}/`, TOKEN),
			credential('lipsync-wrong-token', this.server.url, 'not-the-token'),
			credential('lipsync-expression', '={{ $json.url }}', TOKEN),
			credential('lipsync-nobody', this.nobody, TOKEN),
			...(this.standIn === undefined ? [] : [serviceAccount(), YOUTUBE]),
		]);
	}

	get google(): GoogleStandIn {
		if (this.standIn === undefined) throw new Error('this stage has no stand-in for Google');
		return this.standIn;
	}

	file(name: string): string {
		return join(this.n8n.files, name);
	}

	async clear(): Promise<void> {
		await this.n8n.stopWorker();
		await this.n8n.stop();
		await this.server.stop();
		this.web.stop();
		this.standIn?.stop();
		if (process.env.LIPSYNC_KEEP_HOME) console.log(`kept: ${this.home}`);
		else rmSync(this.home, { recursive: true, force: true });
	}
}

export function credential(id: string, baseUrl: string, token: string): CredentialSpec {
	return {
		id,
		name: id,
		type: 'lipsyncApi',
		data: { baseUrl, token, ignoreSslIssues: false, proxyHeadersSecret: '' },
	};
}

/** A server that accepts connections, reads every request, and never answers. */
export async function silentServer(): Promise<{ url: string; stop: () => void }> {
	const sockets = new Set<{ destroy: () => void }>();
	const server: Server = createServer((socket) => {
		sockets.add(socket);
		socket.on('error', () => socket.destroy());
		socket.resume();
	});
	await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
	const { port } = server.address() as { port: number };
	return {
		url: `http://127.0.0.1:${port}`,
		stop: () => {
			for (const socket of sockets) socket.destroy();
			server.close();
		},
	};
}

/** `one`: a pair. `two`: a pair whose picture is no picture, then a good pair. `long`: a recording of 40 seconds. */
function fillFiles(files: string): void {
	const speech = readFileSync(join(SAMPLES, 'speech.wav'));
	for (const folder of ['one', 'two', 'long']) mkdirSync(join(files, folder));
	const put = (name: string, bytes: Buffer) => writeFileSync(join(files, name), bytes);
	copyFileSync(join(SAMPLES, 'portrait.jpg'), join(files, 'one', 'portrait.jpg'));
	copyFileSync(join(SAMPLES, 'portrait.jpg'), join(files, 'two', '2.jpg'));
	put('two/1.jpg', Buffer.from('this is no picture'));
	const short = firstSeconds(speech, 1.2);
	put('one/speech.wav', short);
	put('two/1.wav', short);
	put('two/2.wav', short);
	put('long/speech.wav', repeated(speech, LONG_S));
}

/** Header and samples of a PCM WAV with a 44-byte header. */
function wav(header: Buffer, samples: Buffer): Buffer {
	const head = Buffer.from(header.subarray(0, 44));
	head.writeUInt32LE(36 + samples.length, 4);
	head.writeUInt32LE(samples.length, 40);
	return Buffer.concat([head, samples]);
}

/** The beginning of a PCM WAV. */
export function firstSeconds(source: Buffer, seconds: number): Buffer {
	const bytesPerSecond = source.readUInt32LE(28);
	const n = Math.round(seconds * bytesPerSecond);
	return wav(source, source.subarray(44, 44 + n - (n % source.readUInt16LE(32))));
}

function repeated(source: Buffer, seconds: number): Buffer {
	const samples = source.subarray(44);
	const n = Math.ceil((seconds * source.readUInt32LE(28)) / samples.length);
	return wav(source, Buffer.concat(Array<Buffer>(n).fill(samples)));
}
