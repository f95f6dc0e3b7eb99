/** A stand-in for a mail server on loopback. It accepts every mail without a password and stores its text. */
import { createServer, type AddressInfo, type Server, type Socket } from 'node:net';

export class SmtpStandIn {
	readonly mails: string[] = [];

	private constructor(
		private readonly server: Server,
		readonly port: number,
	) {}

	static async start(): Promise<SmtpStandIn> {
		const server = createServer();
		await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
		const standIn = new SmtpStandIn(server, (server.address() as AddressInfo).port);
		server.on('connection', (socket) => standIn.talk(socket));
		return standIn;
	}

	stop(): void {
		this.server.close();
	}

	/** One conversation of RFC 5321. The lines after DATA are the mail, up to a line with a single dot. */
	private talk(socket: Socket): void {
		let rest = '';
		let mail: string[] | undefined;
		const say = (line: string) => socket.write(`${line}\r\n`);
		const take = (line: string) => {
			if (mail !== undefined && line !== '.') mail.push(line);
			else if (mail !== undefined) {
				this.mails.push(mail.join('\n'));
				mail = undefined;
				say('250 taken');
			} else if (/^DATA/i.test(line)) {
				mail = [];
				say('354 go on');
			} else if (/^QUIT/i.test(line)) {
				say('221 bye');
				socket.end();
			} else say('250 yes');
		};
		socket.on('error', () => socket.destroy());
		socket.on('data', (bytes) => {
			const lines = (rest + bytes.toString()).split('\r\n');
			rest = lines.pop() ?? '';
			lines.forEach(take);
		});
		say('220 stand-in');
	}
}
