/** A link to one video that works without the token until it expires: for agents, mails and chats. */
import type { IDataObject } from 'n8n-workflow';

import { send } from '../api/client';
import type { Server } from '../api/server';
import { jobPath } from './watch';

interface VideoLink {
	url: string;
	path: string;
	/** Whether `url` begins with the public address of the server. */
	is_public: boolean;
	expires_at: string;
}

export interface LinkWishes {
	expiresInS?: number;
	collects?: boolean;
}

/** Ask the server for a link, as output fields. Returns undefined if the server is too old to make links. */
export async function makeLink(
	server: Server,
	id: string,
	{ expiresInS, collects }: LinkWishes = {},
): Promise<IDataObject | undefined> {
	const response = await send(server, {
		method: 'GET',
		path: jobPath(id, '/link'),
		query: { expires_in_s: expiresInS, collects: collects === true ? 'true' : undefined },
		accept: [404],
	});
	if (response.statusCode === 404) return undefined;
	const link = response.body as unknown as VideoLink;
	// A server behind a proxy may not know its public address. The credential's address works: the node just used it.
	const url = link.is_public ? link.url : `${await server.address()}${link.path}`;
	return { link: url, link_expires_at: link.expires_at };
}
