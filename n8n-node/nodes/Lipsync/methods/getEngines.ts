/** The engines of the server for the drop-down list, with the reason where one cannot run. */
import type { ILoadOptionsFunctions, INodePropertyOptions } from 'n8n-workflow';

import { sendJson } from '../api/client';
import type { ServerInfo } from '../api/types';

export async function getEngines(this: ILoadOptionsFunctions): Promise<INodePropertyOptions[]> {
	const info = await sendJson<ServerInfo>(this, { method: 'GET', path: '/v1/engines' });
	return [
		{ name: 'Auto', value: 'auto', description: `The default of the server, now ${info.default}` },
		...info.engines.map(({ name, title, available, reason }) => ({
			name: available ? title : `${title} (Not Available)`,
			value: name,
			description: available ? undefined : reason,
		})),
	];
}
