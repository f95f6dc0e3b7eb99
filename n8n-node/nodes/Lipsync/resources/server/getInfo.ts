/** Server > Get Info: engines, queue and readiness. */
import type { IDataObject, IExecuteFunctions, INodeExecutionData } from 'n8n-workflow';

import { sendJson } from '../../api/client';
import type { Readiness, ServerInfo } from '../../api/types';
import { eachItem } from '../../items';

export async function getInfo(context: IExecuteFunctions): Promise<INodeExecutionData[]> {
	return await eachItem(context, async (i) => {
		const info = await sendJson<ServerInfo>(context, {
			method: 'GET',
			path: '/v1/engines',
			itemIndex: i,
		});
		const readiness = await sendJson<Readiness>(context, {
			method: 'GET',
			path: '/readyz',
			accept: [503],
			itemIndex: i,
		});
		const simple = context.getNodeParameter('simplify', i) as boolean;
		const json = simple ? simplified(info, readiness) : { ...info, readiness: { ...readiness } };
		return { json: json as IDataObject, pairedItem: { item: i } };
	});
}

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
