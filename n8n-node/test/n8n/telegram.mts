/** A stand-in for Telegram's bot API on loopback: it accepts a webhook, serves a voice note, and records messages. */
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';

import { eventually } from './places.mjs';

export class TelegramStandIn {
	readonly messages: string[] = [];
	readonly videos: Buffer[] = [];
	private webhook?: { url: string; secret_token: string };

	private constructor(
		readonly url: string,
		private readonly server: Server,
	) {}

	static async start(voice: Buffer): Promise<TelegramStandIn> {
		const server = createServer();
		await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
		const { port } = server.address() as AddressInfo;
		const bot = new TelegramStandIn(`http://127.0.0.1:${port}`, server);
		server.on('request', (request, response) => {
			const chunks: Buffer[] = [];
			request.on('data', (chunk: Buffer) => chunks.push(chunk));
			request.on('end', () => {
				const path = String(request.url);
				if (path.startsWith('/file/')) {
					response.writeHead(200, { 'Content-Type': 'application/octet-stream' }).end(voice);
					return;
				}
				const result = bot.answer(path.split('/').pop() ?? '', Buffer.concat(chunks));
				response.writeHead(200, { 'Content-Type': 'application/json' });
				response.end(JSON.stringify({ ok: true, result }));
			});
		});
		return bot;
	}

	/** Send the bot a message, as a user does. */
	async send(message: object): Promise<void> {
		const { url, secret_token } = await eventually('the webhook of the bot', () => this.webhook);
		const answer = await fetch(url, {
			method: 'POST',
			headers: {
				'Content-Type': 'application/json',
				'X-Telegram-Bot-Api-Secret-Token': secret_token,
			},
			body: JSON.stringify({
				update_id: 1,
				message: { message_id: 1, chat: { id: 77 }, ...message },
			}),
		});
		if (!answer.ok) throw new Error(`the webhook of the bot: ${answer.status}`);
	}

	stop(): void {
		this.server.closeAllConnections();
		this.server.close();
	}

	private answer(method: string, body: Buffer): unknown {
		const text = body.toString('latin1');
		if (method === 'setWebhook') this.webhook = JSON.parse(text) as TelegramStandIn['webhook'];
		if (method === 'sendMessage') this.messages.push((JSON.parse(text) as { text: string }).text);
		if (method === 'sendVideo') this.videos.push(body);
		if (method === 'getFile') return { file_id: 'voice-1', file_path: 'voice/file_0.oga' };
		if (method === 'getWebhookInfo') return { url: '' };
		return method.startsWith('send') ? { message_id: 2 } : true;
	}
}
