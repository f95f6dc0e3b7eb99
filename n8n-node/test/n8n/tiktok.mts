/** A stand-in for TikTok's Content Posting API on loopback: it starts a post, takes the video, and records both. */
import { createServer, type IncomingHttpHeaders, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';

export interface Post {
	post_info: { title: string; privacy_level: string; is_aigc: boolean };
	source_info: { video_size: number; chunk_size: number; total_chunk_count: number };
}

export class TikTokStandIn {
	readonly posts: Post[] = [];
	readonly videos: Array<{ headers: IncomingHttpHeaders; bytes: Buffer }> = [];

	private constructor(
		readonly url: string,
		private readonly server: Server,
	) {}

	static async start(): Promise<TikTokStandIn> {
		const server = createServer();
		await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
		const { port } = server.address() as AddressInfo;
		const standIn = new TikTokStandIn(`http://127.0.0.1:${port}`, server);
		server.on('request', (request, response) => {
			const chunks: Buffer[] = [];
			request.on('data', (chunk: Buffer) => chunks.push(chunk));
			request.on('end', () => {
				const body = Buffer.concat(chunks);
				response.writeHead(request.method === 'PUT' ? 201 : 200, {
					'Content-Type': 'application/json',
				});
				if (request.method === 'PUT') {
					standIn.videos.push({ headers: request.headers, bytes: body });
					response.end('{}');
					return;
				}
				standIn.posts.push(JSON.parse(body.toString()) as Post);
				const data = { publish_id: 'post-1', upload_url: `${standIn.url}/upload` };
				response.end(JSON.stringify({ data, error: { code: 'ok', message: '' } }));
			});
		});
		return standIn;
	}

	stop(): void {
		this.server.close();
		this.server.closeAllConnections();
	}
}
