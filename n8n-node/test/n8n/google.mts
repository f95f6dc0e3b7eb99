/**
 * A stand-in for Google's API on loopback: an HTTPS proxy with a certificate authority of its own that answers the
 * token endpoint and the resumable uploads of Drive and YouTube, and records the uploads and the changes.
 */
import { execFileSync } from 'node:child_process';
import { generateKeyPairSync } from 'node:crypto';
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { createServer as createHttpsServer } from 'node:https';
import { connect, type AddressInfo } from 'node:net';
import { dirname, join } from 'node:path';

import type { CredentialSpec } from './n8n.mjs';

export class GoogleStandIn {
	readonly uploads: Array<{ name: string; mimeType: string; bytes: Buffer; announced: number }> =
		[];
	/** The bodies of YouTube's videos.update. */
	readonly updates: unknown[] = [];
	readonly hosts = new Set<string>();

	private constructor(
		readonly authority: string,
		readonly url: string,
		private readonly servers: Server[],
	) {}

	static async start(folder: string): Promise<GoogleStandIn> {
		mkdirSync(folder, { recursive: true });
		makeCertificates(folder);
		const inner = createHttpsServer({
			key: readFileSync(join(folder, 'host.key')),
			cert: readFileSync(join(folder, 'host.crt')),
		});
		const proxy = createServer();
		await new Promise<void>((resolve) => inner.listen(0, '127.0.0.1', resolve));
		await new Promise<void>((resolve) => proxy.listen(0, '127.0.0.1', resolve));
		const innerPort = (inner.address() as AddressInfo).port;
		const url = `http://127.0.0.1:${(proxy.address() as AddressInfo).port}`;
		const standIn = new GoogleStandIn(join(folder, 'ca.crt'), url, [
			inner as unknown as Server,
			proxy,
		]);
		inner.on('request', (request, response) => void standIn.answer(request, response));
		proxy.on('connect', (request, client) => {
			const host = String(request.url).split(':')[0];
			standIn.hosts.add(host);
			// The proxy refuses all other hosts, so no request leaves the machine.
			if (!host.endsWith('googleapis.com')) {
				client.end('HTTP/1.1 403 Forbidden\r\n\r\n');
				return;
			}
			const upstream = connect(innerPort, '127.0.0.1', () => {
				client.write('HTTP/1.1 200 Connection Established\r\n\r\n');
				upstream.pipe(client).pipe(upstream);
			});
			upstream.on('error', () => client.destroy());
			client.on('error', () => upstream.destroy());
		});
		return standIn;
	}

	/** Forget the uploads and changes of earlier cases. */
	forget(): void {
		this.uploads.length = 0;
		this.updates.length = 0;
	}

	stop(): void {
		for (const server of this.servers) {
			server.closeAllConnections();
			server.close();
		}
		rmSync(dirname(this.authority), { recursive: true, force: true });
	}

	private async answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
		const chunks: Buffer[] = [];
		for await (const chunk of request) chunks.push(chunk as Buffer);
		const body = Buffer.concat(chunks);
		const url = new URL(String(request.url), `https://${request.headers.host}`);
		const json = (value: object, headers: Record<string, string> = {}) => {
			response.writeHead(200, { 'Content-Type': 'application/json', ...headers });
			response.end(JSON.stringify(value));
		};
		if (url.pathname.endsWith('/token')) {
			json({ access_token: 'stand-in', token_type: 'Bearer', expires_in: 3600 });
		} else if (
			/^\/upload\/(drive\/v3\/files|youtube\/v3\/videos)$/.test(url.pathname) &&
			request.method === 'POST'
		) {
			const number = this.uploads.push({
				name: '',
				mimeType: String(request.headers['x-upload-content-type'] ?? ''),
				bytes: Buffer.alloc(0),
				announced: 0,
			});
			json({}, { Location: `https://www.googleapis.com/upload/session/${number - 1}` });
		} else if (url.pathname.startsWith('/upload/session/')) {
			this.take(Number(url.pathname.split('/').pop()), request, body, response, json);
		} else if (url.pathname === '/youtube/v3/videos' && request.method === 'PUT') {
			this.updates.push(JSON.parse(body.toString()));
			json({ kind: 'youtube#video' });
		} else if (request.method === 'PATCH' && url.pathname.startsWith('/drive/v3/files/')) {
			const upload = this.uploads[Number(url.pathname.split('-').pop())];
			upload.name = String((JSON.parse(body.toString()) as { name?: string }).name ?? '');
			json({ id: url.pathname.split('/').pop(), name: upload.name, mimeType: upload.mimeType });
		} else {
			response.writeHead(404).end();
		}
	}

	private take(
		number: number,
		request: IncomingMessage,
		body: Buffer,
		response: ServerResponse,
		json: (value: object) => void,
	): void {
		const upload = this.uploads[number];
		upload.bytes = Buffer.concat([upload.bytes, body]);
		const range = /^bytes \d+-(\d+)\/(\d+)$/.exec(String(request.headers['content-range'] ?? ''));
		upload.announced = Number(range?.[2] ?? request.headers['content-length']);
		if (range !== null && Number(range[1]) + 1 < Number(range[2])) {
			response.writeHead(308, { Range: `bytes=0-${range[1]}` }).end();
		} else {
			json({ id: `file-${number}`, name: upload.name });
		}
	}
}

/** A Google service account for n8n's credential, with a new key that signs the token request. */
export function serviceAccount(): CredentialSpec {
	const { privateKey } = generateKeyPairSync('rsa', {
		modulusLength: 2048,
		publicKeyEncoding: { type: 'spki', format: 'pem' },
		privateKeyEncoding: { type: 'pkcs8', format: 'pem' },
	});
	return {
		id: 'google',
		name: 'Google',
		type: 'googleApi',
		data: { email: 'robot@example.iam.gserviceaccount.com', privateKey, inpersonate: false },
	};
}

function makeCertificates(folder: string): void {
	const openssl = (...args: string[]) =>
		execFileSync('openssl', args, { cwd: folder, stdio: 'ignore' });
	writeFileSync(
		join(folder, 'san.txt'),
		'subjectAltName=DNS:*.googleapis.com,DNS:googleapis.com\n',
	);
	openssl(
		'req',
		'-x509',
		'-newkey',
		'rsa:2048',
		'-nodes',
		'-days',
		'2',
		'-subj',
		'/CN=Stand-in CA',
		'-keyout',
		'ca.key',
		'-out',
		'ca.crt',
	);
	openssl(
		'req',
		'-newkey',
		'rsa:2048',
		'-nodes',
		'-subj',
		'/CN=www.googleapis.com',
		'-keyout',
		'host.key',
		'-out',
		'host.csr',
	);
	openssl(
		'x509',
		'-req',
		'-in',
		'host.csr',
		'-CA',
		'ca.crt',
		'-CAkey',
		'ca.key',
		'-CAcreateserial',
		'-days',
		'2',
		'-extfile',
		'san.txt',
		'-out',
		'host.crt',
	);
}
