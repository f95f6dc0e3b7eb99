/** Vast.ai: containers on other people's machines, by its API v0. */
import type { IDataObject } from 'n8n-workflow';

import type { ProviderApi } from './api';
import {
	MIN_CUDA,
	PORT,
	cheapestFirst,
	inPath,
	matches,
	numberOrNull,
	type Action,
	type Machine,
	type MachineState,
	type Offer,
	type Order,
	type Provider,
	type Wish,
} from './machine';

const STATES: Record<string, MachineState> = {
	running: 'running',
	stopped: 'stopped',
	exited: 'stopped',
	offline: 'failed',
	frozen: 'failed',
};

export function vast(api: ProviderApi): Provider {
	return {
		title: 'Vast.ai',
		offers: async (wish: Wish) => {
			const query = {
				num_gpus: { eq: 1 },
				verified: { eq: true },
				rentable: { eq: true },
				direct_port_count: { gte: 1 },
				gpu_ram: { gte: Math.trunc(wish.minMemoryGb * 1000) },
				disk_space: { gte: wish.diskGb },
				cuda_max_good: { gte: Number(MIN_CUDA) },
				type: 'ondemand',
				order: [['dph_total', 'asc']],
				limit: 200,
			} as unknown as IDataObject;
			const { body } = await api.call({
				method: 'POST',
				path: '/bundles/',
				body: query,
				isHarmless: true,
			});
			const found = (body.offers ?? []) as IDataObject[];
			return cheapestFirst(
				found.filter((each) => matches(wish.gpu, String(each.gpu_name ?? ''))).map(offerOf),
			);
		},
		create: async (offerId: string, order: Order) => {
			// `args` keeps the image's own entrypoint; ports are Docker flags among the variables.
			const { body } = await api.call({
				method: 'PUT',
				path: `/asks/${inPath(offerId)}/`,
				isHarmless: false,
				body: {
					image: order.image,
					disk: order.diskGb,
					runtype: 'args',
					target_state: 'running',
					label: order.label,
					env: { ...order.environment, [`-p ${PORT}:${PORT}`]: '1' },
				},
			});
			return String(body.new_contract);
		},
		state: async (id: string) => {
			const { body } = await api.call({
				method: 'GET',
				path: `/instances/${inPath(id)}/`,
				accept: [404],
			});
			const instance = body.instances as IDataObject | null | undefined;
			return instance ? machineOf(id, instance) : gone(id);
		},
		list: async () => {
			const { body } = await api.call({ method: 'GET', path: '/instances/' });
			return ((body.instances ?? []) as IDataObject[]).map((each) =>
				machineOf(String(each.id), each),
			);
		},
		act: async (id: string, action: Action) => {
			if (action === 'destroy') {
				await api.call({ method: 'DELETE', path: `/instances/${inPath(id)}/`, accept: [404] });
				return;
			}
			const state = action === 'start' ? 'running' : 'stopped';
			await api.call({ method: 'PUT', path: `/instances/${inPath(id)}/`, body: { state } });
		},
	};
}

function offerOf(each: IDataObject): Offer {
	return {
		id: String(each.id),
		gpu: String(each.gpu_name ?? '?'),
		memoryGb: Number(each.gpu_ram ?? 0) / 1024,
		pricePerHour: Number(each.dph_total),
		where: String(each.geolocation ?? ''),
	};
}

function machineOf(id: string, instance: IDataObject): Machine {
	const status = String(instance.actual_status ?? '');
	let state = STATES[status] ?? 'starting';
	if (state === 'starting' && instance.intended_status === 'stopped') state = 'stopped';
	return {
		id,
		state,
		url: urlOf(instance),
		pricePerHour: numberOrNull(instance.dph_total),
		detail: String(instance.status_msg || status || 'scheduling')
			.replace(/\s+/g, ' ')
			.slice(0, 200),
		label: String(instance.label ?? ''),
	};
}

function gone(id: string): Machine {
	const detail = 'There is no such instance any more';
	return { id, state: 'gone', url: '', pricePerHour: null, detail, label: '' };
}

/** From the port mapping as it is now, because a restart may change it: Docker's shape, or a list of outer ports. */
function urlOf(instance: IDataObject): string {
	const host = String(instance.public_ipaddr ?? '').trim();
	const ports = instance.ports as IDataObject | unknown[] | null | undefined;
	let outer: unknown;
	if (Array.isArray(ports)) outer = ports[0];
	else if (ports) outer = ((ports[`${PORT}/tcp`] ?? []) as IDataObject[])[0]?.HostPort;
	return host && outer ? `http://${host}:${String(outer)}` : '';
}
