/** Server > Get Info: engines, queue and readiness. */
import type { IDataObject } from 'n8n-workflow';

import { sendJson } from '../../api/client';
import { serverOf } from '../../api/server';
import type { Readiness, ServerInfo } from '../../api/types';
import { eachItem } from '../../items';
import type { Operation } from '../../operation';

export const getInfo: Operation = {
	option: {
		name: 'Get Info',
		value: 'getInfo',
		description: 'Get engines, queue and readiness',
		action: 'Get server info',
	},
	fields: [
		{
			displayName: 'Simplify',
			name: 'simplify',
			type: 'boolean',
			default: true,
			description: 'Whether to return a simplified version of the response instead of the raw data',
		},
	],
	run: async (context) =>
		await eachItem(context, async (i) => {
			const server = serverOf(context, i);
			const info = await sendJson<ServerInfo>(server, { method: 'GET', path: '/v1/engines' });
			const readiness = await sendJson<Readiness>(server, {
				method: 'GET',
				path: '/readyz',
				accept: [503],
			});
			const simple = context.getNodeParameter('simplify', i) as boolean;
			const json = simple ? simplified(info, readiness) : { ...info, readiness: { ...readiness } };
			return { json: json as IDataObject, pairedItem: { item: i } };
		}),
};

function simplified(info: ServerInfo, readiness: Readiness): IDataObject {
	return {
		ready: readiness.ready,
		stage: readiness.stage,
		fraction: readiness.fraction,
		detail: readiness.detail,
		default_engine: info.default,
		engines: info.engines.map(({ name, available, reason, device }) => ({
			name,
			available,
			reason,
			device,
		})),
		queue_length: info.queue_length,
		busy_workers: info.workers.filter(({ state }) => state === 'busy').length,
		idle_stop_in_s: info.idle_stop_in_s,
		version: info.version,
	};
}
