/**
 * RunPod: pods by its API v2. A pod's volume is mounted at /workspace: model files and videos go there, because the rest
 * of the disk is lost at a stop.
 */
import { UserError, type IDataObject } from 'n8n-workflow';

import type { ProviderApi } from './api';
import { Instances } from './instances';
import { MIN_CUDA, PORT, cheapestFirst, matches, numberOrNull } from './machine';
import type { Machine, Provider, States } from './machine';
import { RUN_START_SCRIPT, START_SCRIPT, joined } from './shell';

const STATES: States = {
	RUNNING: 'running',
	EXITED: 'stopped',
	ERROR: 'failed',
	TERMINATED: 'gone',
};
const CONTAINER_DISK_GB = 20;
const VOLUME = '/workspace';
const CLOUDS = ['community', 'secure'];

export function runpod(api: ProviderApi): Provider {
	const pods = new Instances(api, '/pods', 'pod');
	const gpus = async (cloud: string): Promise<IDataObject[]> => {
		const query = {
			include: 'AVAILABILITY',
			product: 'POD',
			count: '1',
			cloud: cloud.toUpperCase(),
		};
		const { body } = await api.call({ method: 'GET', path: '/catalog/gpus', query });
		return (body.gpus ?? []) as IDataObject[];
	};
	return {
		title: 'RunPod',
		offers: async (wish) => {
			const found = await Promise.all(
				CLOUDS.map(async (cloud) =>
					(await gpus(cloud)).flatMap((each) => {
						const price = numberOrNull((each.price as IDataObject | undefined)?.[cloud]);
						const gpu = String(each.name ?? each.id);
						const isInStock = (each.availability ?? 'NONE') !== 'NONE' && each[cloud] === true;
						const memoryGb = Number(each.memory ?? 0);
						if (!price || !isInStock || memoryGb < wish.minMemoryGb || !matches(wish.gpu, gpu))
							return [];
						const where = `${cloud}, stock ${String(each.availability).toLowerCase()}`;
						return [
							{ id: offerId(String(each.id), cloud), gpu, memoryGb, pricePerHour: price, where },
						];
					}),
				),
			);
			return cheapestFirst(found.flat());
		},
		create: async (offer, order) => {
			const cloud = offer.slice(offer.lastIndexOf('@') + 1);
			const wanted = (await gpus(cloud)).find((each) => offerId(String(each.id), cloud) === offer);
			if (wanted === undefined) throw new UserError(`RunPod has no offer ${offer} now`);
			// API v2 refuses a body with both `gpu` and `cpu`, and a body with a field that it does not know.
			const { body } = await api.call({
				method: 'POST',
				path: pods.collection,
				body: {
					name: order.label,
					image: order.image,
					cloud: cloud.toUpperCase(),
					gpu: { id: wanted.id, count: 1, minCudaVersion: MIN_CUDA },
					disk: CONTAINER_DISK_GB,
					mounts: { persistent: { size: Math.max(10, order.diskGb), path: VOLUME } },
					ports: [`${PORT}/http`],
					env: {
						...order.environment,
						...(order.script === '' ? {} : { [START_SCRIPT]: order.script }),
						LIPSYNC_WEIGHTS_DIR: `${VOLUME}/weights`,
						LIPSYNC_DATA_DIR: `${VOLUME}/data`,
					},
					...(order.script === '' ? {} : { args: joined(RUN_START_SCRIPT) }),
				},
			});
			return String(body.id);
		},
		state: async (id) => {
			const pod = await pods.read(id);
			return pod ? machineOf(pod) : pods.gone(id);
		},
		list: async () => {
			const body = await pods.readAll();
			return ((body.pods ?? body.items ?? []) as IDataObject[]).map(machineOf);
		},
		act: async (id, action) => {
			if (action === 'destroy') return await pods.remove(id);
			const path = `${pods.path(id)}/action`;
			await api.call({ method: 'POST', path, body: { action }, isHarmless: true });
		},
	};
}

/** The ID of an offer, as one word: `nvidia-geforce-rtx-4090@community`. */
function offerId(gpuId: string, cloud: string): string {
	const plain = gpuId
		.toLowerCase()
		.replace(/[^a-z0-9]+/g, '-')
		.replace(/^-|-$/g, '');
	return `${plain}@${cloud}`;
}

function machineOf(pod: IDataObject): Machine {
	const status = String(pod.status ?? '');
	return {
		id: String(pod.id),
		state: STATES[status] ?? 'starting',
		url: urlOf(pod),
		pricePerHour: priceOf(pod),
		detail: status.toLowerCase(),
		label: String(pod.name ?? ''),
	};
}

/** The price of a pod in USD per hour. RunPod gives `cost` as a number, or as an object that has the number. */
function priceOf({ cost }: IDataObject): number | null {
	if (typeof cost !== 'object' || cost === null) return numberOrNull(cost);
	const { perHour, hourly, total, amount } = cost as IDataObject;
	return numberOrNull(perHour ?? hourly ?? total ?? amount);
}

/** The address of a mapped TCP port if there is one; else RunPod's TLS proxy, whose name survives a restart. */
function urlOf(pod: IDataObject): string {
	const ports = ((pod.runtime as IDataObject | null)?.ports ?? []) as IDataObject[];
	const mapped = ports.find(
		(port) => port.private === PORT && port.type === 'tcp' && port.public && port.ip,
	);
	if (mapped !== undefined) return `http://${String(mapped.ip)}:${String(mapped.public)}`;
	return pod.status === 'RUNNING' ? `https://${String(pod.id)}-${PORT}.proxy.runpod.net` : '';
}
