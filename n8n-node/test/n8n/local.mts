/** A web server on loopback. It serves files, imitates the API of a GPU provider, and records the calls. */
import { readFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';

export class LocalWeb {
	readonly calls: Array<{ method: string; path: string; key: string; body: unknown }> = [];

	private constructor(
		readonly url: string,
		private readonly server: Server,
	) {}

	static async start(files: Record<string, string>): Promise<LocalWeb> {
		const server = createServer();
		await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
		const web = new LocalWeb(`http://127.0.0.1:${(server.address() as AddressInfo).port}`, server);
		server.on('request', (request, response) => {
			const chunks: Buffer[] = [];
			request.on('data', (chunk: Buffer) => chunks.push(chunk));
			request.on('end', () => {
				const path = String(request.url);
				if (path in files) {
					response.end(readFileSync(files[path]));
					return;
				}
				const text = Buffer.concat(chunks).toString();
				web.calls.push({
					method: String(request.method),
					path,
					key: String(request.headers.authorization),
					body: text ? (JSON.parse(text) as unknown) : null,
				});
				response.writeHead(200, { 'Content-Type': 'application/json' }).end('{"success": true}');
			});
		});
		return web;
	}

	stop(): void {
		this.server.closeAllConnections();
		this.server.close();
	}
}
